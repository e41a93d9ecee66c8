"""Which stack a run was a member of: on its line of the ledger."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Lines that are there ran alone."""
    with op.batch_alter_table("allocations") as batch:
        batch.add_column(sa.Column("stack_id", sa.String, nullable=False, server_default=""))


def downgrade() -> None:
    """Drop the column."""
    with op.batch_alter_table("allocations") as batch:
        batch.drop_column("stack_id")
