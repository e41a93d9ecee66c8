"""What stopping policies judge by, and what they said: with the trial."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Trials that are there were never judged."""
    with op.batch_alter_table("trials") as batch:
        batch.add_column(sa.Column("stage_gpu_seconds", sa.Float, nullable=False, server_default="0"))
        batch.add_column(sa.Column("evaluations", sa.Text, nullable=False, server_default="[]"))
        batch.add_column(sa.Column("stopped", sa.Text))


def downgrade() -> None:
    """Drop the columns."""
    with op.batch_alter_table("trials") as batch:
        for name in ("stage_gpu_seconds", "evaluations", "stopped"):
            batch.drop_column(name)
