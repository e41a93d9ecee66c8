"""experiments/tasks."""
