"""Who may ask what of the service over HTTP, and what a config from over the wire may do."""
