"""The tables of the store. Times are seconds since the epoch.

What never changes (variants, their stages, the groups of their configs) lies in `documents`, once, under the digest of
its text; `trials` holds what changes. See `store.documents`.
"""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)


def _plain(value: Any) -> Any:
    """What the encoder asks about whatever it doesn't know."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is no plain data: {value!r}")


encode_json = json.JSONEncoder(separators=(",", ":"), default=_plain).encode
"""Plain data -> ASCII JSON; NaN and infinity (a diverged loss) included, which PostgreSQL's own JSON type refuses."""


_decoder = json.JSONDecoder()


def decode_json(text: str) -> Any:
    """What `encode_json` encoded. Surrounding space, which it never writes, is not looked for: that halves the time."""
    return _decoder.raw_decode(text)[0]


class PlainData(TypeDecorator[Any]):
    """Plain data as JSON text."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else encode_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else decode_json(value)


class FreeText(TypeDecorator[str]):
    """Text that a program printed: what no database takes (NUL, half of a surrogate pair) reads back as U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return (
            value.encode("utf-16", "surrogatepass")
            .decode("utf-16", "replace")
            .replace("\0", "\N{REPLACEMENT CHARACTER}")
        )


# SQLite makes a key of its own only for a column of type INTEGER.
_Sequence = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

studies = Table(
    "studies",
    metadata,
    Column("study_id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("sweep", PlainData, nullable=False),
    Column("config", PlainData, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("device_kind", String),
    Column("git_revision", String, nullable=False),
    Column("ended_at", Float),
    Column("overrides", PlainData, nullable=False),
    Column("tenant", String, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("halted", String, nullable=False, server_default=""),
)

documents = Table(
    "documents",
    metadata,
    Column("digest", String, primary_key=True),
    Column("body", Text, nullable=False),
)

trials = Table(
    "trials",
    metadata,
    Column("trial_id", String, primary_key=True),
    Column("study_id", String, ForeignKey("studies.study_id"), nullable=False, index=True),
    Column("number", Integer, nullable=False),
    Column("variant", String, ForeignKey("documents.digest"), nullable=False),
    Column("state", String, nullable=False),
    Column("stage_index", Integer, nullable=False),
    Column("progress", Float, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("started_at", Float),
    Column("ended_at", Float),
    Column("metrics", PlainData, nullable=False),
    Column("latest", PlainData, nullable=False),
    Column("gpu_seconds", Float, nullable=False),
    Column("reused_stages", PlainData, nullable=False),
    Column("error", FreeText, nullable=False),
    Column("preemptions", Integer, nullable=False),
    Column("cloned_from", String, nullable=False),
    Column("stage_gpu_seconds", Float, nullable=False, server_default="0"),
    Column("evaluations", PlainData, nullable=False, server_default="[]"),
    Column("stopped", PlainData),
)

stages = Table(
    "stages",
    metadata,
    Column("stage_key", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("parent_key", String, nullable=False),
    Column("state", String, nullable=False),
    Column("outcome", PlainData, nullable=False),
)

allocations = Table(
    "allocations",
    metadata,
    Column("bundle_id", String, primary_key=True),
    Column("study_id", String, ForeignKey("studies.study_id"), nullable=False, index=True),
    Column("stage_key", String, nullable=False),
    Column("trial_ids", PlainData, nullable=False),
    Column("device_ids", PlainData, nullable=False),
    Column("share", Float, nullable=False),
    Column("opened_at", Float, nullable=False),
    Column("closed_at", Float),
    Column("busy_s", Float, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("estimated_memory_bytes", BigInteger, nullable=False),
    Column("estimated_from", String, nullable=False),
    Column("peak_memory_bytes", BigInteger, nullable=False),
    Column("expected_s", Float),
    Column("expected_low_s", Float),
    Column("expected_high_s", Float),
    Column("utilisation", Float),
    Column("stack_id", String, nullable=False, server_default=""),
)

devices = Table(
    "devices",
    metadata,
    Column("device_id", String, primary_key=True),
    Column("node_id", String, nullable=False),
    Column("index", Integer, nullable=False),
    Column("kind", String, nullable=False),
    Column("memory_bytes", BigInteger, nullable=False),
    Column("model", String, nullable=False),
)

predictions = Table(
    "predictions",
    metadata,
    Column("trial_id", String, primary_key=True),
    Column("study_id", String, nullable=False, index=True),
    Column("made_at", Float, nullable=False),
    Column("start_at", Float, nullable=False),
    Column("end_at", Float, nullable=False),
)

commands = Table(
    "commands",
    metadata,
    Column("command_id", _Sequence, primary_key=True),
    Column("at", Float, nullable=False),
    Column("author", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("target", String, nullable=False),
    Column("payload", PlainData, nullable=False),
    Column("answered_at", Float),
    Column("ok", Boolean, nullable=False),
    Column("answer", FreeText, nullable=False),
)
_unanswered = commands.c.answered_at.is_(None)
Index("ix_commands_unanswered", commands.c.command_id, sqlite_where=_unanswered, postgresql_where=_unanswered)

# AUTOINCREMENT: SQLite would give the numbers of deleted entries out again otherwise.
journal = Table(
    "journal",
    metadata,
    Column("sequence", _Sequence, primary_key=True),
    Column("at", Float, nullable=False),
    Column("kind", String, nullable=False),
    Column("study_id", String, nullable=False),
    Column("trial_id", String, nullable=False),
    Column("payload", PlainData, nullable=False),
    Index("ix_journal_study", "study_id", "sequence"),
    Index("ix_journal_trial", "trial_id", "sequence"),
    sqlite_autoincrement=True,
)

# One row, made by the migration: up to where the tracker has the journal.
forwarding = Table(
    "forwarding",
    metadata,
    Column("forwarding_id", Integer, primary_key=True),
    Column("sequence", BigInteger, nullable=False),
)

# One row, made by the migration. `batch` counts the calls of `apply` in this term.
leases = Table(
    "leases",
    metadata,
    Column("lease_id", Integer, primary_key=True),
    Column("term", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("beat_at", Float, nullable=False),
    Column("batch", BigInteger, nullable=False),
    Column("holder", PlainData),
    Column("config", PlainData, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("name", String, primary_key=True),
    Column("digest", String, nullable=False, unique=True),
    Column("role", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
)
