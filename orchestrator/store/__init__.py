"""The durable queue, ledger and journal. SQLAlchemy is imported where a database is."""
