"""Whatever the OpenAPI document allows, and much that it doesn't, is answered without an error of the service's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from orchestrator.access.app import create_app
from orchestrator.access.tokens import new_token
from orchestrator.home import Home
from orchestrator.schema import Role
from orchestrator.store.memory import MemoryStore
from tests.unit.orchestrator.access.services import access, opened_home, opened_store, queue_study

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

# Of what is there: an id that is made up leads nowhere.
KNOWN = {"study_id": "ours", "target": "ours-0000", "trial_id": "ours-0000", "command_id": 1}

_paths = create_app(MemoryStore(), Home(Path("unused")), access()).openapi()["paths"]
ENDPOINTS = [(method, path) for path, methods in _paths.items() for method in methods]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FastAPI, str]]:
    """A service and an admin's token. All calls share it: what one leaves behind is there for the next."""
    home = opened_home(tmp_path_factory.mktemp("openapi"))
    store = opened_store(home)
    queue_study(store, "ours", "default")
    token = new_token(store, "root", Role.ADMIN, "default")
    yield create_app(store, home, access()), token
    store.close()


def call_often(service: tuple[FastAPI, str], method: str, path: str, **limits: Any) -> None:
    app, token = service
    operation = schemathesis.openapi.from_asgi("/openapi.json", app)[path][method]
    known = {name: value for name, value in KNOWN.items() if f"{{{name}}}" in path}
    cases = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode]
    cases += [operation.as_strategy(generation_mode=mode, path_parameters=known) for mode in GenerationMode if known]

    @settings(
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        **limits,
    )
    @given(case=st.one_of(cases))
    def call(case: schemathesis.Case) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, checks=CHECKS)

    call()


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_no_call_makes_the_service_fail(service: tuple[FastAPI, str], method: str, path: str) -> None:
    call_often(service, method, path, max_examples=10, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
def test_no_call_of_many_makes_the_service_fail(service: tuple[FastAPI, str], method: str, path: str) -> None:
    call_often(service, method, path, max_examples=100)
