"""cluster/ray."""
