"""`cache ls|gc` on a home with a study's files in it."""

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cluster.outputs import Artifacts
from orchestrator.cli import app
from orchestrator.home import HOME_VARIABLE, STORE_VARIABLE, Home
from orchestrator.schema import Outcome


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifacts:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    made = Artifacts(Home.from_environment().artifacts)
    for number, key in enumerate(("older", "newer")):
        made.prepare(key, "gone", key)
        (made.incoming(key) / "weights").write_text("w" * 2**20)
        made.commit(key, key, Outcome())
        made.checkpoint("gone", key).rmdir()
        os.utime(made.stage(key), (time.time() - 10_000 + number,) * 2)
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["cache", *arguments])


def test_ls_lists_what_there_is_as_a_table_and_for_programs(artifacts: Artifacts) -> None:
    shown = run("ls", "--format", "json", "--verify")
    assert shown.exit_code == 0, shown.output
    rows = json.loads(shown.stdout)
    assert [(row["kind"], row["name"], row["verified"], row["needed"]) for row in rows] == [
        ("output", "newer", True, False),
        ("output", "older", True, False),
    ]
    table = run("ls")
    assert table.exit_code == 0
    assert "2 entries, 0.002 GiB" in table.output


def test_ls_fails_where_an_output_does_not_verify(artifacts: Artifacts) -> None:
    (artifacts.stage("older") / "weights").write_text("other")
    assert run("ls", "--verify").exit_code == 1
    assert run("ls").exit_code == 0


def test_gc_removes_the_least_recently_used_until_the_rest_fits(artifacts: Artifacts) -> None:
    keep = str(1.5 * 2**20 / 2**30)
    tried = run("gc", "--keep-gib", keep, "--dry-run")
    assert "output older" in tried.output
    assert "1 would be removed" in tried.output
    assert artifacts.available(["older", "newer"]) == {"older", "newer"}


def test_gc_leaves_what_fits(artifacts: Artifacts) -> None:
    done = run("gc", "--keep-gib", str(1.5 * 2**20 / 2**30))
    assert done.exit_code == 0, done.output
    assert artifacts.available(["older", "newer"]) == {"newer"}


def test_gc_refuses_an_age_that_would_be_unsafe(artifacts: Artifacts) -> None:
    assert run("gc", "--keep-gib", "0", "--min-age-s", "1").exit_code == 2
