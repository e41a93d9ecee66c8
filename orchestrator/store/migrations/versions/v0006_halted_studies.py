"""Whether a person paused or cancelled a study as a whole: then no search adds trials to it."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Studies that are there have all their trials."""
    # In place, on SQLite too: a table that others refer to can't be copied and dropped there.
    op.add_column("studies", sa.Column("halted", sa.String, nullable=False, server_default=""))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("studies", "halted")
