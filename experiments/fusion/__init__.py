"""experiments/fusion."""
