"""Whose code may be run."""

from pathlib import Path

import pytest

from orchestrator.schema.trust import TRUSTED_MODELS, code_is_trusted


@pytest.mark.parametrize(
    ("trusted", "model", "allowed"),
    [
        ("", "/models/a", False),
        ("/models/a", "/models/a", True),
        ("/models", "/models/hub/a", True),
        ("/other:/models", "/models/a", True),
        ("/models/a", "/models/ab", False),
        ("/models/a", "/models", False),
        ("/models/a", "/models/a/../b", False),
        (":", "/models/a", False),
    ],
)
def test_a_model_is_trusted_in_or_below_a_folder_that_is(
    monkeypatch: pytest.MonkeyPatch, trusted: str, model: str, allowed: bool
) -> None:
    monkeypatch.setenv(TRUSTED_MODELS, trusted)
    assert code_is_trusted(model) is allowed


def test_a_link_into_a_trusted_folder_is_followed_and_one_out_of_it_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "trusted" / "model").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "in").symlink_to(tmp_path / "trusted" / "model")
    (tmp_path / "trusted" / "out").symlink_to(tmp_path / "mine")
    monkeypatch.setenv(TRUSTED_MODELS, str(tmp_path / "trusted"))
    assert code_is_trusted(tmp_path / "in")
    assert not code_is_trusted(tmp_path / "trusted" / "out")


def test_nobody_is_trusted_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TRUSTED_MODELS, raising=False)
    assert not code_is_trusted("/")
