"""Who schedules: leadership of a store, the machine's devices, and the rooms that serve it together."""
