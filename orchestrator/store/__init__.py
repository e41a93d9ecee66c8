"""The durable queue and ledger: studies, trials, stages, allocations. SQLAlchemy is imported by `database` only."""
