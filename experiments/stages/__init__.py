"""experiments/stages."""
