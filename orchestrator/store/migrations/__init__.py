"""Alembic migrations of the store: `versions/` holds one file per change of the tables, oldest first."""
