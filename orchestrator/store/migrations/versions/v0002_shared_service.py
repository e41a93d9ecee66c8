"""A store that several processes share: the lease, commands, the journal, devices, predictions, tokens; and variants
as documents that trials share.

JSON columns become text: PostgreSQL's JSON takes no NaN, and a diverged trial has one among its metrics.
"""

import json
from hashlib import blake2b
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JSON_COLUMNS = {
    "studies": ("sweep", "config"),
    "trials": ("metrics", "reused_stages"),
    "stages": ("outcome",),
    "allocations": ("trial_ids", "device_ids"),
}

_SEQUENCE = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the new tables, and carry what is there over into the new columns."""
    _make_ledger_and_queue_wider()
    _variants_become_documents()
    _make_journal()
    _make_lease_and_tokens()
    _make_observations()


def _make_ledger_and_queue_wider() -> None:
    new: dict[str, tuple[sa.Column[Any], ...]] = {
        "studies": (
            sa.Column("overrides", sa.Text, nullable=False, server_default="[]"),
            sa.Column("tenant", sa.String, nullable=False, server_default="default"),
            sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        ),
        "trials": (
            sa.Column("latest", sa.Text, nullable=False, server_default="{}"),
            sa.Column("preemptions", sa.Integer, nullable=False, server_default="0"),
            sa.Column("cloned_from", sa.String, nullable=False, server_default=""),
        ),
        "stages": (),
        "allocations": (sa.Column("memory_bytes", sa.BigInteger, nullable=False, server_default="0"),),
    }
    for table, columns in _JSON_COLUMNS.items():
        with op.batch_alter_table(table) as batch:
            for name in columns:
                batch.alter_column(
                    name,
                    existing_type=sa.JSON,
                    type_=sa.Text,
                    existing_nullable=False,
                    postgresql_using=f"{name}::text",
                )
            for column in new[table]:
                batch.add_column(column)
            if table == "studies":
                batch.alter_column("device_kind", existing_type=sa.String, nullable=True)


def _variants_become_documents() -> None:
    documents = op.create_table(
        "documents",
        sa.Column("digest", sa.String, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )
    with op.batch_alter_table("trials") as batch:
        batch.add_column(sa.Column("variant", sa.String))
    connection = op.get_bind()
    columns: list[sa.ColumnClause[Any]] = [
        sa.column("trial_id"),
        sa.column("variant_key"),
        sa.column("algorithm"),
        sa.column("seed"),
    ]
    columns += [sa.column(name, sa.JSON) for name in ("overrides", "config", "stages")]
    bodies: dict[str, str] = {}
    found = connection.execute(sa.select(*columns).select_from(sa.table("variants")))
    chosen = [{"of": row["trial_id"], "digest": _variant_document(row, bodies)} for row in found.mappings()]
    if chosen:
        op.bulk_insert(documents, [{"digest": digest, "body": body} for digest, body in sorted(bodies.items())])
        trials = sa.table("trials", sa.column("trial_id"), sa.column("variant"))
        matching = trials.c.trial_id == sa.bindparam("of")
        connection.execute(sa.update(trials).where(matching).values(variant=sa.bindparam("digest")), chosen)
    with op.batch_alter_table("trials") as batch:
        batch.alter_column("variant", existing_type=sa.String, nullable=False)
        batch.create_foreign_key("trials_variant_fkey", "documents", ["variant"], ["digest"])
    op.drop_table("variants")


def _variant_document(row: Any, bodies: dict[str, str]) -> str:
    """As `store.documents` writes it at this revision."""
    body = {"key": row["variant_key"], "algorithm": row["algorithm"], "seed": row["seed"]}
    body |= {"overrides": row["overrides"], "config": _outline(row["config"], bodies)}
    stages = [{**stage, "config": _outline(stage["config"], bodies)} for stage in row["stages"]]
    return _document({**body, "stages": [_document(stage, bodies) for stage in stages]}, bodies)


def _outline(config: dict[str, Any], bodies: dict[str, str]) -> dict[str, Any]:
    return {
        name: {"document": _document(value, bodies)} if isinstance(value, dict) else value
        for name, value in config.items()
    }


def _document(value: dict[str, Any], bodies: dict[str, str]) -> str:
    body = json.dumps(value, separators=(",", ":"))
    digest = blake2b(body.encode(), digest_size=20).hexdigest()
    bodies[digest] = body
    return digest


def _make_journal() -> None:
    op.create_table(
        "journal",
        sa.Column("sequence", _SEQUENCE, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("study_id", sa.String, nullable=False),
        sa.Column("trial_id", sa.String, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Index("ix_journal_study", "study_id", "sequence"),
        sa.Index("ix_journal_trial", "trial_id", "sequence"),
        sqlite_autoincrement=True,
    )
    forwarding = op.create_table(
        "forwarding",
        sa.Column("forwarding_id", sa.Integer, primary_key=True),
        sa.Column("sequence", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(forwarding, [{"forwarding_id": 1, "sequence": 0}])


def _make_lease_and_tokens() -> None:
    leases = op.create_table(
        "leases",
        sa.Column("lease_id", sa.Integer, primary_key=True),
        sa.Column("term", sa.BigInteger, nullable=False),
        sa.Column("beat", sa.BigInteger, nullable=False),
        sa.Column("beat_at", sa.Float, nullable=False),
        sa.Column("batch", sa.BigInteger, nullable=False),
        sa.Column("holder", sa.Text),
        sa.Column("config", sa.Text, nullable=False),
    )
    op.bulk_insert(leases, [{"lease_id": 1, "term": 0, "beat": 0, "beat_at": 0.0, "batch": 0, "config": "{}"}])
    op.create_table(
        "tokens",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("digest", sa.String, nullable=False, unique=True),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("created_at", sa.Float, nullable=False),
        sa.Column("revoked_at", sa.Float),
    )


def _make_observations() -> None:
    commands = (
        sa.Column("command_id", _SEQUENCE, primary_key=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("author", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("target", sa.String, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("answered_at", sa.Float),
        sa.Column("ok", sa.Boolean, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
    )
    op.create_table("commands", *commands)
    unanswered = sa.text("answered_at IS NULL")
    op.create_index(
        "ix_commands_unanswered", "commands", ["command_id"], sqlite_where=unanswered, postgresql_where=unanswered
    )
    devices = (
        sa.Column("device_id", sa.String, primary_key=True),
        sa.Column("node_id", sa.String, nullable=False),
        sa.Column("index", sa.Integer, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("model", sa.String, nullable=False),
    )
    op.create_table("devices", *devices)
    predictions = (
        sa.Column("trial_id", sa.String, primary_key=True),
        sa.Column("study_id", sa.String, nullable=False, index=True),
        sa.Column("made_at", sa.Float, nullable=False),
        sa.Column("start_at", sa.Float, nullable=False),
        sa.Column("end_at", sa.Float, nullable=False),
    )
    op.create_table("predictions", *predictions)


def downgrade() -> None:
    """Refused: shared documents and journals have no place in the older tables."""
    raise NotImplementedError("restore the copy of the database that was made before the upgrade")
