"""Which settings nobody beats."""

import io
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.report.document import build_report
from orchestrator.report.fronts import PATIENCE, fronts_figure
from orchestrator.report.page import html_page
from orchestrator.report.pareto import pareto_entry, pareto_front, pareto_grid, with_patience
from orchestrator.report.table import markdown, print_tables
from orchestrator.schema import Trial
from tests.unit.orchestrator.report.studies import a_study, a_trial, ledger

# Few different values, so that points are often equal in one or both.
POINTS = st.lists(st.tuples(st.integers(0, 6).map(float), st.integers(0, 6).map(float)), max_size=12)


def a_setting(accuracy: float, seconds: float | None, gpu_seconds: float, late: float | None = None) -> dict:
    return {
        "algorithm": "sft",
        "overrides": ["optimizer.lr=0.001"],
        "accuracy_mean": accuracy,
        "accuracy_low": None,
        "accuracy_high": None,
        "time_to_answer_p50_s_mean": seconds,
        "time_to_answer_p95_s_mean": seconds if late is None else late,
        "gpu_seconds_mean": gpu_seconds,
    }


def fronts(*settings: dict, patience_s: float | None = None) -> list[tuple[bool, bool]]:
    points = pareto_entry(settings, patience_s)["points"]
    return [(point["on_time_front"], point["on_gpu_hours_front"]) for point in points]


@given(POINTS)
def test_the_front_is_what_brute_force_finds(points: list[tuple[float, float]]) -> None:
    def beaten(mine: tuple[float, float]) -> bool:
        return any(cost <= mine[0] and worth >= mine[1] and (cost, worth) != mine for cost, worth in points)

    assert pareto_front(points) == {index for index, point in enumerate(points) if not beaten(point)}


@given(POINTS)
def test_the_front_is_of_the_points_whatever_their_order(points: list[tuple[float, float]]) -> None:
    front = {points[index] for index in pareto_front(points)}
    assert {points[::-1][index] for index in pareto_front(points[::-1])} == front


def test_a_setting_may_be_on_one_front_and_beaten_on_the_other() -> None:
    smart, fast, cheap = a_setting(0.9, 0.4, 30.0), a_setting(0.7, 0.1, 30.0), a_setting(0.6, 0.5, 10.0)
    assert fronts(smart, fast, cheap) == [(True, True), (True, False), (False, True)]


def test_an_answer_after_the_user_has_left_is_worth_nothing() -> None:
    smart, fast = a_setting(0.9, 0.4, 30.0, late=0.6), a_setting(0.7, 0.1, 30.0, late=0.2)
    assert fronts(smart, fast, patience_s=0.5) == [(False, False), (True, True)]
    points = pareto_entry([smart, fast], 0.5)["points"]
    assert [(point["in_time"], point["accuracy_in_time"]) for point in points] == [(False, 0.0), (True, 0.7)]


def test_a_setting_that_was_never_timed_is_on_the_front_of_gpu_hours_only() -> None:
    assert fronts(a_setting(0.9, None, 10.0), a_setting(0.5, 0.1, 10.0)) == [(False, True), (True, False)]


def test_without_patience_nobody_is_late() -> None:
    (point,) = pareto_entry([a_setting(0.9, 100.0, 10.0)], None)["points"]
    assert (point["in_time"], point["accuracy_in_time"]) == (None, 0.9)


def slower(number: int, accuracy: float, seconds: float, lr: float, seed: int = 0) -> Trial:
    trial = a_trial(number, "sft", seed, accuracy, lr=lr)
    times = {"time_to_answer_p50_s": seconds, "time_to_answer_p95_s": 1.5 * seconds}
    return a_trial(number, "sft", seed, accuracy, lr=lr, metrics={**trial.metrics, **times})


def a_document() -> dict:
    trials = [slower(0, 0.9, 0.4, 1e-3), slower(1, 0.7, 0.1, 2e-3), slower(2, 0.6, 0.2, 3e-3)]
    return build_report(a_study(), trials, ledger(), now=1e9)


def test_the_table_marks_who_is_on_which_front_the_fastest_first() -> None:
    rows = pareto_grid(a_document()).rows
    assert [(row[1], row[-1]) for row in rows] == [
        ("optimizer.lr=0.002", "time"),
        ("optimizer.lr=0.003", "beaten"),
        ("optimizer.lr=0.001", "time + cost"),
    ]


def test_a_users_patience_splits_the_table() -> None:
    grid = pareto_grid(with_patience(a_document(), 0.5))
    assert [row[-1] for row in grid.rows] == ["time + cost", "beaten", "too late"]
    assert "0.5 s" in grid.title


def test_the_study_may_say_how_patient_its_users_are() -> None:
    study = replace(a_study(), config={"report": {"patience_s": 0.2}})
    assert build_report(study, [], [], now=0.0)["pareto"] == {"patience_s": 0.2, "points": []}


@pytest.mark.parametrize("width", [80, 120])
def test_every_form_shows_the_fronts(width: int) -> None:
    buffer = io.StringIO()
    print_tables(a_document(), Console(file=buffer, width=width))
    assert "time + cost" in buffer.getvalue()
    assert "time + cost" in markdown(a_document())


@pytest.mark.filterwarnings("default")
def test_the_page_draws_both_fronts_and_where_patience_ends() -> None:
    page = html_page(with_patience(a_document(), 0.5))
    for part in ("time to answer, median [s]", "GPU-hours held per trial", "patience", "time + cost"):
        assert part in page


def drawn(document: dict) -> list[dict]:
    """The traces of the figure of both fronts."""
    text = fronts_figure(document)
    start = text.index("[", text.index("Plotly.newPlot("))
    traces: list[dict] = json.JSONDecoder().raw_decode(text[start:])[0]
    return traces


@pytest.mark.filterwarnings("default")
def test_the_figure_names_who_is_on_a_front_and_shows_intervals() -> None:
    left, line, right, _ = drawn(a_document())
    assert left["text"] == ["optimizer.lr=0.001", "optimizer.lr=0.002", ""]
    assert right["text"] == ["optimizer.lr=0.001", "", ""]
    assert line["x"] == [0.1, 0.4]
    assert line["mode"] == "lines"
    assert [left["showlegend"], right["showlegend"]] == [True, False]
    several = [slower(n, 0.9 + 0.01 * n, 0.4, 1e-3, seed=n) for n in range(3)]
    (points, *_) = drawn(build_report(a_study(), several, ledger(), now=1e9))
    assert points["error_y"]["array"][0] > 0.01  # Student's interval over three seeds


@pytest.mark.filterwarnings("default")
def test_the_figure_crosses_out_what_is_too_late() -> None:
    late = with_patience(a_document(), 0.4)
    assert drawn(late)[0]["marker"]["symbol"] == ["x", "circle", "circle"]
    assert PATIENCE in fronts_figure(late)
    assert PATIENCE not in fronts_figure(a_document())


def test_what_all_trials_have_tells_none_from_another_and_is_said_once() -> None:
    document = a_document()
    for trial in document["trials"]:
        trial["overrides"] = [*trial["overrides"], "task.path=problems.jsonl"]
    for entry in (*document["settings"], *document["pareto"]["points"]):
        entry["overrides"] = [*entry["overrides"], "task.path=problems.jsonl"]
    text = markdown(document)
    assert text.count("task.path=problems.jsonl") == 1
    assert "task.path=problems.jsonl." in text
    assert [row[1] for row in pareto_grid(document).rows] == [row[1] for row in pareto_grid(a_document()).rows]
