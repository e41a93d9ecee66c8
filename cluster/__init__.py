"""Where bundles run: implementations of `orchestrator.ports.Cluster`, and what an admin deploys. See README.md."""
