"""What counts as the same stage, row by row; `orchestrator/sweep/README.md` says the same in words."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator import keys
from orchestrator.keys import StageKeys, code_digest, on_trunk, stage_key, warm_variant
from orchestrator.sweep import compose_study
from tests.unit.orchestrator.builders import stage, variant

Config = dict[str, Any]

# Each algorithm with the schedule under which all that an optimizer can be told counts.
STAGES: Mapping[str, list[str]] = {
    "sft": ["algorithm=sft", "optimizer.schedule=wsd", "optimizer.decay_steps=7"],
    "grpo": ["algorithm=grpo", "optimizer.schedule=wsd", "optimizer.decay_steps=7"],
}
# Not in a key. The path of a file: its bytes are. `decay_fraction`: `decay_steps`, where it is given, is.
NOT_COUNTED = {"task.path", "model.path", "optimizer.decay_fraction"}


def plain(overrides: list[str]) -> Config:
    """The last stage's config, as data of its own."""
    return json.loads(json.dumps(dict(compose_study(overrides).variants[0].stages[-1].config)))


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in config.items():
        inner = isinstance(value, Mapping) and value
        found |= leaves(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return found


CONFIGS = {name: plain(overrides) for name, overrides in STAGES.items()}
VALUES = [(name, path) for name, config in CONFIGS.items() for path in leaves(config) if path not in NOT_COUNTED]


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case dict():
            return {"more": 1}
        case list():
            return [*value, 1]
    return f"not {value}"


def with_value(config: Config, path: str, value: Any) -> Config:
    changed = json.loads(json.dumps(config))
    *groups, name = path.split(".")
    inner = changed
    for group in groups:
        inner = inner[group]
    inner[name] = value
    return changed


@pytest.mark.parametrize(("name", "path"), VALUES)
def test_every_value_of_a_stages_config_counts(name: str, path: str) -> None:
    config = CONFIGS[name]
    changed = with_value(config, path, another(leaves(config)[path]))
    assert stage_key(changed, "p") != stage_key(config, "p")


@pytest.fixture
def problems(tmp_path: Path) -> Config:
    path = tmp_path / "problems.jsonl"
    path.write_text('{"prompt": "1+1=", "answer": "2"}\n')
    return plain(["task=jsonl", f"task.path={path}"])


def another_parent(config: Config, _: pytest.MonkeyPatch) -> str:
    return stage_key(config, "q")


def another_byte_of_data(config: Config, _: pytest.MonkeyPatch) -> str:
    Path(config["task"]["path"]).write_text('{"prompt": "1+1=", "answer": "3"}\n')
    return stage_key(config, "p")


def another_package_version(config: Config, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(keys, "_version", lambda package: "0.0" if package == "numpy" else "1")
    keys._versions.cache_clear()
    patch.setattr(keys, "_versions", keys._versions.__wrapped__)
    return stage_key(config, "p")


def another_line_of_stage_code(config: Config, patch: pytest.MonkeyPatch) -> str:
    patch.setattr(keys, "code_digest", lambda package: f"{package}, edited")
    return stage_key(config, "p")


def the_same_function_of_another_package(config: Config, patch: pytest.MonkeyPatch) -> str:
    """Even if both were named alike: the source of the entrypoint's own package counts."""
    patch.setattr(keys, "_package_of", lambda entrypoint: "cluster")
    return stage_key(config, "p")


@pytest.mark.parametrize(
    "changed",
    [
        another_parent,
        another_byte_of_data,
        another_package_version,
        another_line_of_stage_code,
        the_same_function_of_another_package,
    ],
)
def test_what_else_counts(
    changed: Callable[[Config, pytest.MonkeyPatch], str], problems: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stage_key(problems, "p")
    assert changed(problems, monkeypatch) != before


def test_a_custom_entrypoints_package_counts_to_its_last_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "their_stages"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "deep.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = with_value(CONFIGS["sft"], "algorithm.entrypoint", "their_stages.deep:run")
    before = stage_key(config, "p")
    (package / "deep.py").write_text("x = 2\n")
    code_digest.cache_clear()
    assert stage_key(config, "p") != before


@pytest.mark.parametrize(
    "override",
    [
        "cluster.share_per_trial=0.5",
        "cluster.devices_per_trial=2",
        "cluster.memory_per_trial_gib=3",
        "cluster=node",
        "packing=first_fit",
        "ordering=priority",
        "preemption=never",
        "tracking=memory",
        "cache=bounded",
        "study.tenant=somebody",
        "study.priority=3",
        "study.name=other",
        "study.reuse_stages=false",
        "study.share_trunks=false",
        "optimizer.decay=sqrt",
        "optimizer.decay_fraction=0.5",
        "optimizer.decay_steps=3",
    ],
)
def test_where_and_for_whom_it_runs_does_not_count_nor_what_its_schedule_does_not_read(override: str) -> None:
    assert compose_study([override]).variants[0].key == compose_study([]).variants[0].key


def test_where_its_data_lies_does_not_count(problems: Config, tmp_path: Path) -> None:
    elsewhere = tmp_path / "copy.jsonl"
    elsewhere.write_bytes(Path(problems["task"]["path"]).read_bytes())
    assert stage_key(with_value(problems, "task.path", str(elsewhere)), "p") == stage_key(problems, "p")


def test_the_order_of_names_does_not_count() -> None:
    config = CONFIGS["sft"]
    assert stage_key(dict(reversed(config.items())), "p") == stage_key(config, "p")


def test_a_decay_counts_by_its_steps_however_they_were_given() -> None:
    config = with_value(CONFIGS["sft"], "algorithm.max_steps", 100)
    by_steps = with_value(config, "optimizer.decay_steps", 20)
    by_fraction = with_value(with_value(config, "optimizer.decay_steps", 0), "optimizer.decay_fraction", 0.2)
    assert stage_key(by_steps, "p") == stage_key(by_fraction, "p")


def test_a_warm_stage_is_another_one_by_its_start_and_is_on_no_trunk() -> None:
    cold = variant(stage("main"))
    warm = [warm_variant(cold, kept, step) for kept, step in (("a", 1), ("b", 1), ("a", 2))]
    assert len({cold.key, *(v.key for v in warm)}) == 4
    assert {v.stages[-1].trunk for v in warm} == {""}


# --- trunks ----------------------------------------------------------------------------------------------------------


def trunk(name: str, **changes: Any) -> tuple[str, int]:
    config = CONFIGS[name]
    for path, value in changes.items():
        config = with_value(config, path.replace("__", "."), value)
    return StageKeys().trunk(config, "p")


@pytest.mark.parametrize("name", STAGES)
def test_length_schedule_and_decay_do_not_count_for_a_trunk(name: str) -> None:
    key, _ = trunk(name)
    assert trunk(name, algorithm__max_steps=90) == (key, 83)
    assert trunk(name, algorithm__max_steps=90, optimizer__decay="sqrt", optimizer__decay_steps=30) == (key, 60)
    assert trunk(name, algorithm__max_steps=90, optimizer__schedule="constant") == (key, 90)


OF_TRUNK = [pair for pair in VALUES if not pair[1].startswith(("optimizer.decay", "optimizer.schedule"))]


@pytest.mark.parametrize(("name", "path"), [p for p in OF_TRUNK if p[1] not in ("algorithm.max_steps",)])
def test_every_other_value_counts_for_a_trunk(name: str, path: str) -> None:
    changed = with_value(CONFIGS[name], path, another(leaves(CONFIGS[name])[path]))
    assert StageKeys().trunk(changed, "p")[0] != trunk(name)[0]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_rate_that_depends_on_the_length_from_the_start_has_no_trunk(schedule: str) -> None:
    assert trunk("sft", optimizer__schedule=schedule) == ("", 0)


def test_an_algorithm_that_does_not_continue_has_no_trunk() -> None:
    assert trunk("sft", algorithm__continues=False) == ("", 0)


def test_an_end_of_a_trunk_is_the_constant_run_of_that_length() -> None:
    constant = compose_study(["algorithm=grpo", "algorithm.max_steps=40"]).variants[0].stages[-1]
    longer = (
        compose_study(["algorithm=grpo", "algorithm.max_steps=90", "optimizer.schedule=wsd"]).variants[0].stages[-1]
    )
    assert stage_key(on_trunk(longer.config, 40), longer.parent_key) == constant.key
