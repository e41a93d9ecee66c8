"""What was thought that a run would take, and what it took: on its line of the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Lines that are there know nothing of either."""
    with op.batch_alter_table("allocations") as batch:
        for name in ("estimated_memory_bytes", "peak_memory_bytes"):
            batch.add_column(sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
        batch.add_column(sa.Column("estimated_from", sa.String, nullable=False, server_default=""))
        for name in ("expected_s", "expected_low_s", "expected_high_s", "utilisation"):
            batch.add_column(sa.Column(name, sa.Float))


def downgrade() -> None:
    """Drop the columns."""
    with op.batch_alter_table("allocations") as batch:
        for name in (
            "estimated_memory_bytes",
            "estimated_from",
            "peak_memory_bytes",
            "expected_s",
            "expected_low_s",
            "expected_high_s",
            "utilisation",
        ):
            batch.drop_column(name)
