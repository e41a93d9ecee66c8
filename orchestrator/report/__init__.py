"""What leads read: one JSON document per study, its forms, and the live view while it runs. See README.md."""
