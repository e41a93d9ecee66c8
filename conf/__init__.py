"""YAML only: `config.yaml` and one folder per group. See README.md."""
