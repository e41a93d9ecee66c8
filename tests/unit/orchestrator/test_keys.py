"""What counts as the same stage."""

from typing import Any

import pytest

from orchestrator import keys
from orchestrator.keys import code_digest, stage_key
from orchestrator.sweep import compose_study


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return dict(compose_study([]).variants[0].stages[-1].config)


def test_equal_configs_have_equal_keys(config: dict[str, Any]) -> None:
    assert stage_key(config, "p") == stage_key(dict(reversed(config.items())), "p")


def test_another_parent_is_another_stage(config: dict[str, Any]) -> None:
    assert stage_key(config, "p") != stage_key(config, "q")


@pytest.mark.parametrize("part", ["algorithm", "optimizer", "model", "task", "deepspeed", "evaluation"])
def test_any_value_of_any_part_changes_the_key(config: dict[str, Any], part: str) -> None:
    for name, value in config[part].items():
        if name == "path":
            continue  # the bytes count, not where they lie
        changed = {**config, part: {**config[part], name: f"not {value}"}}
        assert stage_key(changed, "") != stage_key(config, ""), f"{part}.{name}"


def test_another_version_of_a_package_that_computes_changes_the_key(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stage_key(config, "")
    monkeypatch.setattr(keys, "_versions", lambda: {"torch": "0.0"})
    assert stage_key(config, "") != before


def test_another_line_of_stage_code_changes_the_key(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    before = stage_key(config, "")
    monkeypatch.setattr(keys, "code_digest", lambda package: "edited")
    assert stage_key(config, "") != before


def test_the_digest_of_code_covers_every_source_file() -> None:
    assert code_digest("experiments") != code_digest("cluster")
    assert code_digest("no_such_package") == ""
