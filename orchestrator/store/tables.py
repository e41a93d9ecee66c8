"""The tables of the store. Times are seconds since the epoch; JSON columns hold plain data."""

from sqlalchemy import JSON, Column, Float, ForeignKey, Integer, MetaData, String, Table, Text

metadata = MetaData()

studies = Table(
    "studies",
    metadata,
    Column("study_id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("sweep", JSON, nullable=False),
    Column("config", JSON, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("device_kind", String, nullable=False),
    Column("git_revision", String, nullable=False),
    Column("ended_at", Float),
)

# What a trial is never changes; it is written once, apart from how the trial goes, which is written often.
variants = Table(
    "variants",
    metadata,
    Column("trial_id", String, primary_key=True),
    Column("variant_key", String, nullable=False, index=True),
    Column("algorithm", String, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("overrides", JSON, nullable=False),
    Column("config", JSON, nullable=False),
    Column("stages", JSON, nullable=False),
)

trials = Table(
    "trials",
    metadata,
    Column("trial_id", String, primary_key=True),
    Column("study_id", String, ForeignKey("studies.study_id"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("stage_index", Integer, nullable=False),
    Column("progress", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("metrics", JSON, nullable=False),
    Column("gpu_seconds", Float, nullable=False),
    Column("reused_stages", JSON, nullable=False),
    Column("error", Text, nullable=False),
)

stages = Table(
    "stages",
    metadata,
    Column("stage_key", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("parent_key", String, nullable=False),
    Column("state", String, nullable=False),
    Column("outcome", JSON, nullable=False),
)

allocations = Table(
    "allocations",
    metadata,
    Column("bundle_id", String, primary_key=True),
    Column("study_id", String, ForeignKey("studies.study_id"), nullable=False, index=True),
    Column("stage_key", String, nullable=False),
    Column("trial_ids", JSON, nullable=False),
    Column("device_ids", JSON, nullable=False),
    Column("share", Float, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("busy_s", Float, nullable=False),
)
