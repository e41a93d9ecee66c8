"""experiments/models."""
