"""Whatever the OpenAPI document allows, and much that it doesn't, is answered without an error of the service's own."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from orchestrator.access.app import create_app
from orchestrator.access.tokens import new_token
from orchestrator.schema import Role
from tests.unit.orchestrator.access.services import access, opened_home, opened_store, queue_study

CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
# Examples share one service on purpose: what one leaves behind is there for the next.
SUPPRESSED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[object, str]]:
    home = opened_home(tmp_path_factory.mktemp("openapi"))
    store = opened_store(home)
    queue_study(store, "ours", "default")
    token = new_token(store, "root", Role.ADMIN, "default")
    yield create_app(store, home, access()), token
    store.close()


@pytest.fixture
def document(service: tuple[object, str]) -> object:
    return schemathesis.openapi.from_asgi("/openapi.json", service[0])


schema = schemathesis.pytest.from_fixture("document")


@schema.parametrize()
@settings(max_examples=5, deadline=None, suppress_health_check=SUPPRESSED, derandomize=True, database=None)
def test_no_call_makes_the_service_fail(case: schemathesis.Case, service: tuple[object, str]) -> None:
    call(case, service[1])


@pytest.mark.slow
@schema.parametrize()
@settings(max_examples=200, deadline=None, suppress_health_check=SUPPRESSED)
def test_no_call_of_very_many_makes_the_service_fail(case: schemathesis.Case, service: tuple[object, str]) -> None:
    call(case, service[1])


def call(case: schemathesis.Case, token: str) -> None:
    case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, checks=CHECKS)
