"""Fusion over one frozen base: see README.md."""
