"""Every YAML under conf/ composes, validates and names only what exists."""

import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import conf
from orchestrator.ordering import ORDERINGS
from orchestrator.packing import PACKINGS
from orchestrator.sharing.defragmentation import DEFRAGMENTATIONS
from orchestrator.sharing.preemption import PREEMPTIONS
from orchestrator.simulation.composing import compose_base, compose_runs
from orchestrator.stopping import STOPPINGS
from orchestrator.sweep import compose_study
from tests.hf_models import QWEN_2_5_0_5B, write_published

ROOT = Path(conf.__path__[0])
CHOICES = sorted(str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.glob("*/*.yaml"))
DOTTED = re.compile(r"^[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*:[A-Za-z_]+$")
# What only `orchestrator simulate` composes, with the values that it must be given.
SIMULATED = {
    "cluster/simulated": ["trace=alibaba2023", "trace.pods=none"],
    "interference/none": [],
    "interference/post_training": [],
    "trace/alibaba2023": ["trace.pods=none"],
    "trace/csv": ["trace.file=none"],
    "trace/pollux": ["trace.workload=none"],
    "trace/synthetic": [],
}


@pytest.fixture(scope="module", params=CHOICES)
def composed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The config that a choice makes, composed and validated once for all that is asked of it."""
    group, name = request.param.split("/")
    overrides = [f"{group}={name}"]
    if request.param in SIMULATED:
        (run,) = compose_runs([*overrides, *SIMULATED[request.param]])
        return run.config
    if request.param == "rollout/vllm":
        overrides += ["model=hf", "model.training=full"]
    if request.param == "recipe/distill_hf":
        overrides.append("model=hf")
    if request.param in ("model/hf", "rollout/vllm", "study/qwen_gsm8k", "recipe/distill_hf"):
        folder = write_published(tmp_path_factory.mktemp("model"), QWEN_2_5_0_5B)
        overrides.append(f"model.path={folder}")
    if request.param == "recipe/distill_hf":
        overrides.append(f"recipe.stages.student.model.path={folder}")
    if request.param in ("task/jsonl", "study/qwen_gsm8k"):
        path = tmp_path_factory.mktemp("task") / "problems.jsonl"
        path.write_text('{"prompt": "1+1=", "answer": "2"}\n')
        overrides.append(f"task.path={path}")
    if group == "quantization":
        overrides.append("recipe=quantized")
    if group == "search" and name != "grid":
        overrides += ["optimizer.lr=interval(1e-4,1e-2)", "optimizer.beta1=interval(0.5,0.9)"]
        return compose_study(overrides).probes[0].config
    return compose_study(overrides).variants[0].config


def dotted_strings(value: Any) -> set[str]:
    if isinstance(value, dict):
        return {found for item in value.values() for found in dotted_strings(item)}
    if isinstance(value, list | tuple):
        return {found for item in value for found in dotted_strings(item)}
    return {value} if isinstance(value, str) and DOTTED.match(value) else set()


def test_composes_and_validates(composed: Mapping[str, Any]) -> None:
    assert composed


def test_the_root_of_a_simulation_composes() -> None:
    assert "name: synthetic" in compose_base([])


@pytest.mark.parametrize("choice", [choice for choice in CHOICES if choice != "debug/none"])
def test_header_shows_a_command_that_uses_it(choice: str) -> None:
    group, name = choice.split("/")
    header = (ROOT / f"{choice}.yaml").read_text().split("defaults:")[0]
    assert re.search(r"orchestrator (run|serve|simulate|trace|tune) ", header)
    assert f"{group}={name}" in header or f"{group}." in header  # the default one is shown by what it is changed with


@pytest.mark.filterwarnings("ignore")  # importing an implementation imports third parties
def test_dotted_strings_resolve(composed: Mapping[str, Any]) -> None:
    strings = dotted_strings(composed)
    assert strings
    for dotted in strings:
        module, _, name = dotted.partition(":")
        assert callable(getattr(importlib.import_module(module), name)), dotted
    for module in composed["cluster"].get("preload", ()):  # a cluster without processes of its own has none
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize(
    ("group", "registry"),
    [
        ("ordering", ORDERINGS),
        ("packing", PACKINGS),
        ("preemption", PREEMPTIONS),
        ("defragmentation", DEFRAGMENTATIONS),
        ("stopping", STOPPINGS),
    ],
)
def test_every_policy_has_a_config_and_every_config_a_policy(group: str, registry: dict[str, Any]) -> None:
    assert {path.stem for path in (ROOT / group).glob("*.yaml")} == set(registry)
