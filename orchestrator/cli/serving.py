"""What `serve` and `resume` check before they take devices."""

import time
from collections.abc import Sequence
from contextlib import closing

from orchestrator.config import ConfigError
from orchestrator.control.outlook import is_served
from orchestrator.home import Home
from orchestrator.service.rooms import SERVICE_PARTS
from orchestrator.store.opening import find_study, open_store


def service_overrides(overrides: Sequence[str]) -> list[str]:
    """The overrides, if each is of one of the service's own groups. Raises ConfigError for the first that isn't."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+~").partition("@")[0].partition(".")[0] not in SERVICE_PARTS:
            remedy = f"serve takes the service's own groups: {', '.join(SERVICE_PARTS)}; give the rest to submit"
            raise ConfigError(key, value, remedy)
    return list(overrides)


def http_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`; an IPv6 address in brackets. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError("--http", text, "write HOST:PORT, such as 127.0.0.1:8321")
    return host.strip("[]"), int(port)


def study_to_serve(home: Home, target: str | None) -> str | None:
    """The id of the study (None: the last) if nobody serves the home's store; None if somebody does, or it is a trial.

    Raises ConfigError if there is no such study or trial.
    """
    with closing(open_store(home)) as store:
        if is_served(store.lease(), time.time()):
            return None
        try:
            store.trial(target or "")
        except KeyError:
            return find_study(store, target).study_id
        return None
