"""Every YAML under conf/ composes, validates and names only what exists."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

import conf
from orchestrator.ordering import ORDERINGS
from orchestrator.packing import PACKINGS
from orchestrator.stopping import STOPPINGS
from orchestrator.sweep import compose_study

ROOT = Path(conf.__path__[0])
CHOICES = sorted(str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob("*/*.yaml"))
DOTTED = re.compile(r"^[a-z_]+(\.[a-z_]+)*:[A-Za-z_]+$")


def overrides_for(choice: str, tmp_path: Path) -> list[str]:
    group, name = choice.split("/")
    if choice == "task/jsonl":
        path = tmp_path / "problems.jsonl"
        path.write_text('{"prompt": "1+1=", "answer": "2"}\n')
        return ["task=jsonl", f"task.path={path}"]
    return [f"{group}={name}"]


def dotted_strings(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {found for item in value.values() for found in dotted_strings(item)}
    if isinstance(value, list | tuple):
        return {found for item in value for found in dotted_strings(item)}
    return {value} if isinstance(value, str) and DOTTED.match(value) else set()


@pytest.mark.parametrize("choice", CHOICES)
def test_composes_and_validates(choice: str, tmp_path: Path) -> None:
    assert compose_study(overrides_for(choice, tmp_path)).variants


@pytest.mark.parametrize("choice", CHOICES)
def test_header_shows_a_command_that_uses_it(choice: str) -> None:
    group, name = choice.split("/")
    header = (ROOT / f"{choice}.yaml").read_text().split("defaults:")[0]
    if name in ("none",):
        return
    assert "orchestrator run" in header
    assert f"{group}={name}" in header or name in ("single",)


@pytest.mark.filterwarnings("ignore")  # importing an implementation imports third parties
@pytest.mark.parametrize("choice", CHOICES)
def test_dotted_strings_resolve(choice: str, tmp_path: Path) -> None:
    config = compose_study(overrides_for(choice, tmp_path)).variants[0].config
    strings = dotted_strings(config)
    assert strings
    for dotted in strings:
        module, _, name = dotted.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), dotted
    for module in config["cluster"]["preload"]:
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize(
    ("group", "registry"), [("ordering", ORDERINGS), ("packing", PACKINGS), ("stopping", STOPPINGS)]
)
def test_every_policy_has_a_config_and_every_config_a_policy(group: str, registry: dict[str, Any]) -> None:
    assert {path.stem for path in (ROOT / group).glob("*.yaml")} == set(registry)
