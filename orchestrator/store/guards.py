"""What the database refuses whoever writes: transitions that don't exist, and changes to closed lines of the ledger."""

from sqlalchemy import Connection

from orchestrator.schema import TrialState

_LEGAL = ", ".join(f"'{was}>{to}'" for was in TrialState for to in TrialState if was.may_become(to))

# Name, table, and the condition under which an update is refused.
_GUARDS = (
    ("illegal_transition", "trials", f"(OLD.state || '>' || NEW.state) NOT IN ({_LEGAL})"),
    ("closed_line", "allocations", "OLD.closed_at IS NOT NULL"),
)


def install_guards(connection: Connection) -> None:
    """Make the triggers, in place of earlier ones. They raise IntegrityError."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(_POSTGRES_REFUSAL)
    for name, table, condition in _GUARDS:
        if connection.dialect.name == "postgresql":
            action = f"FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION refuse_update()"
            connection.exec_driver_sql(f"CREATE OR REPLACE TRIGGER {name} BEFORE UPDATE ON {table} {action}")
        else:
            action = f"FOR EACH ROW WHEN {condition} BEGIN SELECT RAISE(ABORT, '{name}'); END"
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
            connection.exec_driver_sql(f"CREATE TRIGGER {name} BEFORE UPDATE ON {table} {action}")


_POSTGRES_REFUSAL = """
CREATE OR REPLACE FUNCTION refuse_update() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING MESSAGE = TG_NAME;
END $$
"""
