"""Readers of recorded workloads: `read(...) -> schema.Trace`. They know the schema and the standard library only."""
