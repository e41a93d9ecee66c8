"""The machine that most tests of this folder drive."""

from collections.abc import Iterator

import pytest

from orchestrator.state import validate
from tests.unit.orchestrator.builders import joined
from tests.unit.orchestrator.state.test_machine import Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    machine.handle(joined(2))
    yield machine
    validate(machine)
