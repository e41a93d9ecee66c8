"""What each mechanism brings: a study run with all of them, without one at a time, and without any."""
