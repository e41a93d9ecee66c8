import json
import math
import re
from dataclasses import replace
from pathlib import Path

from orchestrator import report
from orchestrator.report.document import build_report
from orchestrator.schema import EarlyStop, Fate, TrialState
from orchestrator.throughput import EXPLANATIONS
from tests.unit.orchestrator.report.studies import A_PAIR, a_study, a_trial, ledger, seeds


def a_document() -> dict:
    trials = seeds("sft", [0.45, 0.5]) + seeds("grpo", [0.6, 0.66], first=2)
    trials.append(
        replace(a_trial(4, "sft", 9, 0.0), state=TrialState.FAILED, error="Traceback\nValueError: boom", metrics={})
    )
    stop = EarlyStop(policy="median", rung=1, confidence=0.95, gpu_seconds=4.0, why="behind", drawn=True)
    trials[0] = replace(trials[0], stopped=replace(stop, fate=Fate.FINISHING))
    lines = [
        replace(line, bundle_id=str(trial.number), stage_key=trial.variant.stages[-1].key)
        for line in (replace(line, estimated_memory_bytes=3, peak_memory_bytes=2) for line in ledger())
        for trial in trials
    ]
    search = {"name": "tpe", "trials": 8, "metric": "dev_accuracy", "direction": "maximize", "seed": 0}
    searched = replace(a_study(), config={"search": search}, sweep=("algorithm=sft,grpo", "optimizer.lr=1e-3"))
    return build_report(searched, trials[::-1], lines, now=1e9, sharing=[A_PAIR])


def test_it_is_plain_json_and_reads_back_as_it_is() -> None:
    document = a_document()
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_it_holds_what_the_command_line_promises() -> None:
    document = a_document()
    assert {"study", "trials", "throughput", "verdict"} <= set(document)
    assert [trial["number"] for trial in document["trials"]] == [0, 1, 2, 3, 4]
    for trial in document["trials"]:
        assert {"id", "algorithm", "state", "overrides", "metrics", "gpu_seconds"} <= set(trial)
    assert list(document["throughput"]) == list(EXPLANATIONS)
    assert document["throughput"]["experiments_decided"] == 4.0
    assert document["trials"][4]["error"].endswith("ValueError: boom")


def test_an_ended_study_gives_the_same_document_at_any_later_time() -> None:
    trials = seeds("sft", [0.5])
    assert build_report(a_study(), trials, ledger(), now=1e9) == build_report(a_study(), trials, ledger(), now=2e9)


def test_numbers_that_json_lacks_become_null() -> None:
    trial = a_trial(0, "sft", 0, 0.5)
    trial = replace(trial, metrics={**trial.metrics, "train/loss": math.nan})
    assert build_report(a_study(), [trial], [], now=0.0)["trials"][0]["metrics"]["train/loss"] is None


def test_a_study_without_trials_has_a_document() -> None:
    document = build_report(a_study(), [], [], now=0.0)
    assert document["trials"] == []
    assert document["throughput"]["experiments_per_gpu_hour"] == 0.0


def test_every_field_is_described_in_the_readme_and_nothing_else_is() -> None:
    readme = (Path(report.__file__).parent / "README.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^\| `([a-z0-9_.\[\]*]+)` \|", readme, flags=re.MULTILINE))
    assert described == set(paths(a_document()))


OPEN_MAPPINGS = {"study.trials_by_state", "search.points", "trials[].metrics", "throughput", "throughput_explained"}
"""Mappings whose names are not the document's own: described as a whole."""


def paths(node: object, prefix: str = "") -> set[str]:
    found: set[str] = set()
    if isinstance(node, dict) and prefix not in OPEN_MAPPINGS:
        for name, value in node.items():
            name = "*" if prefix == "verdict.algorithms" else name
            found |= paths(value, f"{prefix}.{name}" if prefix else name)
    elif isinstance(node, list) and node and isinstance(node[0], dict):
        for value in node:
            found |= paths(value, f"{prefix}[]")
    else:
        found.add(prefix)
    return found
