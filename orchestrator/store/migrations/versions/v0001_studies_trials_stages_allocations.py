"""Studies, variants, trials, stages and the ledger of allocations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "studies",
        sa.Column("study_id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("sweep", sa.JSON, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("submitted_at", sa.Float, nullable=False),
        sa.Column("device_kind", sa.String, nullable=False),
        sa.Column("git_revision", sa.String, nullable=False),
        sa.Column("ended_at", sa.Float),
    )
    op.create_table(
        "variants",
        sa.Column("trial_id", sa.String, primary_key=True),
        sa.Column("variant_key", sa.String, nullable=False, index=True),
        sa.Column("algorithm", sa.String, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("overrides", sa.JSON, nullable=False),
        sa.Column("config", sa.JSON, nullable=False),
        sa.Column("stages", sa.JSON, nullable=False),
    )
    op.create_table(
        "trials",
        sa.Column("trial_id", sa.String, primary_key=True),
        sa.Column("study_id", sa.String, sa.ForeignKey("studies.study_id"), nullable=False, index=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("stage_index", sa.Integer, nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("submitted_at", sa.Float, nullable=False),
        sa.Column("started_at", sa.Float),
        sa.Column("ended_at", sa.Float),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("gpu_seconds", sa.Float, nullable=False),
        sa.Column("reused_stages", sa.JSON, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
    )
    op.create_table(
        "stages",
        sa.Column("stage_key", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("parent_key", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("outcome", sa.JSON, nullable=False),
    )
    op.create_table(
        "allocations",
        sa.Column("bundle_id", sa.String, primary_key=True),
        sa.Column("study_id", sa.String, sa.ForeignKey("studies.study_id"), nullable=False, index=True),
        sa.Column("stage_key", sa.String, nullable=False),
        sa.Column("trial_ids", sa.JSON, nullable=False),
        sa.Column("device_ids", sa.JSON, nullable=False),
        sa.Column("share", sa.Float, nullable=False),
        sa.Column("opened_at", sa.Float, nullable=False),
        sa.Column("closed_at", sa.Float),
        sa.Column("busy_s", sa.Float, nullable=False),
    )


def downgrade() -> None:
    """Drop the tables."""
    for name in ("allocations", "stages", "trials", "variants", "studies"):
        op.drop_table(name)
