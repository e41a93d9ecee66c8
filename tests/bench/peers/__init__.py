"""This project against what a team would use instead, on one machine, on one study. See README.md."""
