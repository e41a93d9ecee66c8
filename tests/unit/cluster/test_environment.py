from cluster.environment import without_secrets


def test_what_holds_secrets_is_dropped_and_the_rest_stays():
    secrets = ("ORCHESTRATOR_STORE", "ORCHESTRATOR_TOKEN", "ORCHESTRATOR_URL", "PGPASSWORD", "SMTP_PASSWORD")
    secrets += tuple(f"MLFLOW_TRACKING_{name}" for name in ("USERNAME", "PASSWORD", "TOKEN"))
    kept = {"PATH": "/bin", "HF_TOKEN": "for downloads", "MLFLOW_TRACKING_URI": "http://host"}
    assert without_secrets({**dict.fromkeys(secrets, "secret"), **kept}) == kept
