"""Workloads in virtual time: the same state machine, ordering and packing as the live service."""
