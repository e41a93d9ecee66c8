"""Every YAML under conf/ composes, validates and names only what exists."""

import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

import conf
from orchestrator.ordering import ORDERINGS
from orchestrator.packing import PACKINGS
from orchestrator.sharing.preemption import PREEMPTIONS
from orchestrator.stopping import STOPPINGS
from orchestrator.sweep import ComposedStudy, compose_study

ROOT = Path(conf.__path__[0])
CHOICES = sorted(str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob("*/*.yaml"))
DOTTED = re.compile(r"^[a-z_]+(\.[a-z_]+)*:[A-Za-z_]+$")


@pytest.fixture(scope="module", params=CHOICES)
def composed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ComposedStudy:
    """The study that a choice makes, composed and validated once for all that is asked of it."""
    group, name = request.param.split("/")
    overrides = [f"{group}={name}"]
    if request.param == "task/jsonl":
        path = tmp_path_factory.mktemp("task") / "problems.jsonl"
        path.write_text('{"prompt": "1+1=", "answer": "2"}\n')
        overrides.append(f"task.path={path}")
    return compose_study(overrides)


def dotted_strings(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {found for item in value.values() for found in dotted_strings(item)}
    if isinstance(value, list | tuple):
        return {found for item in value for found in dotted_strings(item)}
    return {value} if isinstance(value, str) and DOTTED.match(value) else set()


def test_composes_and_validates(composed: ComposedStudy) -> None:
    assert composed.variants


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "debug/none"])
def test_header_shows_a_command_that_uses_it(choice: str) -> None:
    group, name = choice.split("/")
    header = (ROOT / f"{choice}.yaml").read_text().split("defaults:")[0]
    assert re.search(r"orchestrator (run|serve) ", header)
    assert f"{group}={name}" in header or f"{group}." in header  # the default one is shown by what it is changed with


@pytest.mark.filterwarnings("ignore")  # importing an implementation imports third parties
def test_dotted_strings_resolve(composed: ComposedStudy) -> None:
    config = composed.variants[0].config
    strings = dotted_strings(config)
    assert strings
    for dotted in strings:
        module, _, name = dotted.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), dotted
    for module in config["cluster"].get("preload", ()):  # a cluster without processes of its own has none
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize(
    ("group", "registry"),
    [("ordering", ORDERINGS), ("packing", PACKINGS), ("preemption", PREEMPTIONS), ("stopping", STOPPINGS)],
)
def test_every_policy_has_a_config_and_every_config_a_policy(group: str, registry: dict[str, Any]) -> None:
    assert {path.stem for path in (ROOT / group).glob("*.yaml")} == set(registry)
