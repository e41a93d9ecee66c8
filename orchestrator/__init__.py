"""Decides and records: which trial runs where, when it is enough, what it cost. Imports no torch, deepspeed or ray."""
