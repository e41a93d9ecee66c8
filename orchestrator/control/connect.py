"""Whom the command line asks: the service that `ORCHESTRATOR_URL` names, or the home's own store."""

import os

from orchestrator.control.direct import DirectOperations
from orchestrator.control.operations import Operations
from orchestrator.home import Home
from orchestrator.store.opening import open_store, usable_store

URL_VARIABLE = "ORCHESTRATOR_URL"
TOKEN_VARIABLE = "ORCHESTRATOR_TOKEN"


def is_remote() -> bool:
    """Whether operations go to a service over HTTP."""
    return bool(os.environ.get(URL_VARIABLE))


def connect(home: Home, author: str, *, new: bool = False) -> Operations:
    """The operations; `author` stands beside direct ones, over HTTP the token's name does. `new`: the home's store is
    made if there is none. Raises ConfigError if there is nothing to ask."""
    if is_remote():
        from orchestrator.control.remote import RemoteOperations

        return RemoteOperations(os.environ[URL_VARIABLE], os.environ.get(TOKEN_VARIABLE, ""))
    if new:
        home.prepare()
    return DirectOperations(usable_store(home) if new else open_store(home), home, author)
