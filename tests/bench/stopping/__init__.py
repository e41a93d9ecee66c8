"""Stopping rules over curves that were recorded once. See README.md."""
