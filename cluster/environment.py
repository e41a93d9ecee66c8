"""Which variables of the service reach training code: all but those that hold its secrets."""

from collections.abc import Mapping

_SECRETS = frozenset(
    {
        "ORCHESTRATOR_STORE",
        "ORCHESTRATOR_TOKEN",
        "ORCHESTRATOR_URL",
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "PGPASSWORD",
    }
)
_SECRET_ENDING = "_PASSWORD"


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """The rest of `environment`. A token of a model hub stays: stages download with it."""
    return {
        name: value for name, value in environment.items() if name not in _SECRETS and not name.endswith(_SECRET_ENDING)
    }
