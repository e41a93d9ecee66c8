"""The report of a study that is over."""

import json
from pathlib import Path

import pytest

from orchestrator.home import Home
from orchestrator.schema import Outcome
from orchestrator.service.reports import finish_study
from tests.unit.orchestrator.report.studies import WARMUP, a_study, ledger, seeds


@pytest.mark.filterwarnings("default")
def test_its_files_know_what_the_store_knows_of_what_trials_share(tmp_path: Path) -> None:
    asked: list[str] = []

    def completed_stages(keys: list[str]) -> dict[str, Outcome]:
        asked.extend(keys)
        return {WARMUP.key: Outcome(metrics={"accuracy": 0.125})}

    unmeasured = {"accuracy": 0.5, "dev_accuracy": 0.5}  # nobody's last stage says where it began
    trials = seeds("sft", [0.5, 0.5], metrics=unmeasured)
    finished = finish_study(Home(tmp_path), a_study(), trials, ledger(), [], completed_stages)
    assert asked == [WARMUP.key]
    (report,) = (json.loads(Path(path).read_text()) for path in finished.artifacts if path.endswith(".json"))
    assert [trial["gain"] for trial in report["trials"]] == [0.375, 0.375]
    assert finished.metrics["experiments_completed"] == 2.0
