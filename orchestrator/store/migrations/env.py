"""What Alembic runs. The connection comes from whoever asks for the migration; see `store.migrate`."""

from alembic import context

from orchestrator.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite can't alter a column in place.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
