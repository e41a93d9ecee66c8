"""The fused stage: each member goes the way of its stage alone, however it comes and goes, and fails alone."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.checkpoint import progress_of
from tests.unit.experiments.fusion.drawn import DRAWN, calm_knobs
from tests.unit.experiments.fusion.fused_runs import (
    GRPO,
    SERIES,
    SFT,
    WEIGHTS,
    run_solo,
    variant,
    variants,
    write_even_problems,
    write_mixed_problems,
)
from tests.unit.experiments.stack_runs import Seat, run_stack
from tests.unit.experiments.stage_runs import MEASURED, run_stage, stage_data, told

ALGORITHMS = {"sft": SFT, "grpo": GRPO}
BOTH = pytest.mark.parametrize("algorithm", ["sft", "grpo"])
STATES = "engine/mp_rank_00_model_states.pt"


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(problems without padding, problems with, output of a warm-up that is right now and then)."""
    folder = tmp_path_factory.mktemp("fused")
    even, mixed = write_even_problems(folder), write_mixed_problems(folder)
    data = stage_data(even, {"name": "sft", "max_steps": 150, "batch_size": 16}, lr=1e-2)
    run_stage(folder, data, name="warm-up")
    return even, mixed, folder / "warm-up" / "output"


def solo(tmp_path, datas, parent, **options):
    folder = tmp_path / "alone"
    folder.mkdir(exist_ok=True)
    return run_solo(folder, datas, parent, **options)


def fuse(tmp_path, seats, **options):
    folder = tmp_path / "fused"
    folder.mkdir(exist_ok=True)
    return run_stack(folder, seats, **options)


def seats_of(datas, parent, **options):
    return [Seat(data, f"solo-{number}", parent=parent, **options) for number, data in enumerate(datas)]


def close(mine, theirs, tolerances, name):
    torch.testing.assert_close(
        torch.tensor(mine), torch.tensor(theirs), msg=lambda text: f"{name}: {text}", **tolerances
    )


def assert_same_reports(mine, theirs):
    """Steps, names of series, values and progress of every report."""
    assert [(step, list(metrics), done) for step, metrics, done in mine] == [
        (step, list(metrics), done) for step, metrics, done in theirs
    ]
    for (step, metrics, _), (_, expected, _) in zip(mine, theirs, strict=True):
        for name, value in metrics.items():
            close(value, expected[name], SERIES, f"{name} of step {step}")


def assert_same_outcome(fused, alone):
    assert fused.outcome.finished
    assert fused.outcome.metrics.keys() == alone.outcome.metrics.keys()
    for name in fused.outcome.metrics.keys() - MEASURED:
        close(fused.outcome.metrics[name], alone.outcome.metrics[name], SERIES, name)
    assert fused.weights.keys() == alone.weights.keys()
    for name, weight in alone.weights.items():
        torch.testing.assert_close(fused.weights[name], weight, **WEIGHTS)


def assert_same(fused, alone):
    assert_same_reports(fused.reports, alone.reports)
    assert_same_outcome(fused, alone)


def compare(tmp_path, datas, parent):
    alone, run = solo(tmp_path, datas, parent), fuse(tmp_path, seats_of(datas, parent))
    assert run.errors == {}
    for number, expected in enumerate(alone):
        assert_same(run.results[f"solo-{number}"], expected)
    return alone, run


def last_checkpoint(tmp_path, where, step=50, number=0):
    return tmp_path / where / f"solo-{number}" / "checkpoints" / f"step-{step}"


def same_tree(mine, theirs):
    """Whether two nested states are the same, tensors within tolerance."""
    if isinstance(mine, dict):
        return mine.keys() == theirs.keys() and all(same_tree(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, (list, tuple)):
        return len(mine) == len(theirs) and all(map(same_tree, mine, theirs))
    if isinstance(mine, torch.Tensor):
        return torch.allclose(mine.double(), theirs.double(), **WEIGHTS)
    return bool((mine == theirs).all()) if hasattr(mine, "all") else mine == theirs


@BOTH
def test_two_members_end_as_they_do_alone(study, tmp_path, algorithm):
    even, _, parent = study
    alone, run = compare(tmp_path, variants(even, ALGORITHMS[algorithm], 2), parent)
    assert run.results["solo-0"].series("train/loss") != run.results["solo-1"].series("train/loss")
    assert [run.results[f"solo-{n}"].saves[-1] for n in range(2)] == [result.saves[-1] for result in alone]


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
def test_members_of_other_widths_end_as_they_do_alone(study, tmp_path, algorithm, width, padded):
    even, mixed, parent = study
    compare(tmp_path, variants(mixed if padded else even, ALGORITHMS[algorithm], width), parent)


@BOTH
def test_a_members_last_checkpoint_is_that_of_its_stage(study, tmp_path, algorithm):
    """The libraries' generators, the sampler and the progress too."""
    even, _, parent = study
    compare(tmp_path, variants(even, ALGORITHMS[algorithm], 2), parent)
    mine, theirs = (last_checkpoint(tmp_path, where, number=1) for where in ("fused", "alone"))
    first, second = (torch.load(path / "process-0.pt", weights_only=False) for path in (mine, theirs))
    for state in (first, second):  # its times are wall times
        state["progress"] = progress_of(state)
        state["progress"]["reported"] = [report[1:2] for report in state["progress"]["reported"]]
        state["progress"]["series"] = {name: torch.tensor(v) for name, v in state["progress"]["series"].items()}
    assert first["layout"] == second["layout"]
    assert same_tree(first["random"], second["random"])
    assert same_tree({**first["progress"], "start_accuracy": 0.0}, {**second["progress"], "start_accuracy": 0.0})
    first, second = (torch.load(path / STATES, weights_only=False) for path in (mine, theirs))
    for name in ("module", "optimizer", "global_steps"):
        assert same_tree(first[name], second[name]), name


def _note_evaluations():
    """Prints each evaluation of the stack: split and members."""
    from experiments.fusion.bundle import Bundle

    evaluate = Bundle.evaluate

    def noted(self, names, split, batch_size):
        with Path("evaluated").open("a") as file:
            print(split, len(names), file=file)
        return evaluate(self, names, split, batch_size)

    Bundle.evaluate = noted


def test_those_that_begin_with_one_output_are_evaluated_on_it_once(study, tmp_path, monkeypatch):
    even, _, parent = study
    monkeypatch.chdir(tmp_path)
    first, second, late = seats_of(variants(even, SFT, 3), parent)
    run = fuse(tmp_path, [first, second, replace(late, arrives_at=3)], function=_note_evaluations)
    evaluated = (tmp_path / "evaluated").read_text().splitlines()
    assert evaluated[:2] == ["test 1", "dev 1"]
    assert evaluated.count("test 1") == 2  # the second: who came late ends alone
    starts = {result.outcome.metrics["start_accuracy"] for result in run.results.values()}
    assert len(run.results) == 3
    assert len(starts) == 1


def test_those_that_begin_with_nothing_but_their_seeds_are_each_evaluated(study, tmp_path, monkeypatch):
    even, _, _ = study
    monkeypatch.chdir(tmp_path)
    datas = [{**data, "seed": seed} for seed, data in enumerate(variants(even, SFT, 2))]
    fuse(tmp_path, seats_of(datas, ""), function=_note_evaluations)
    assert (tmp_path / "evaluated").read_text().splitlines()[:2] == ["test 2", "dev 2"]


@BOTH
def test_who_joins_late_ends_as_alone(study, tmp_path, algorithm):
    even, _, parent = study
    datas = variants(even, ALGORITHMS[algorithm], 3)
    alone = solo(tmp_path, datas, parent)
    seats = seats_of(datas, parent)
    seats[1].arrives_at, seats[2].arrives_at = 20, 20
    run = fuse(tmp_path, seats)
    for number, expected in enumerate(alone):
        assert_same(run.results[f"solo-{number}"], expected)


def test_seats_are_refilled_after_everybody_has_left(study, tmp_path):
    even, _, parent = study
    datas = variants(even, SFT, 2)
    alone, seats = solo(tmp_path, datas, parent), seats_of(datas, parent)
    seats[1].arrives_at = 1000
    run = fuse(tmp_path, seats)
    for number, expected in enumerate(alone):
        assert_same(run.results[f"solo-{number}"], expected)


LEFT_AT = 20


def stop_and_go_on(tmp_path, datas, parent, first, then):
    """Member 1's two runs: `first` is stopped at step `LEFT_AT`, `then` goes on; each "solo" or "fused"."""
    folder = tmp_path / "cut"
    folder.mkdir()
    results = []
    for how, stop_at in ((first, LEFT_AT + 1), (then, -1)):
        if how == "solo":
            # `run_solo` numbers its stages: the member's folder is called as the stack calls it
            results.append(run_solo(folder, [datas[1]], parent, stop_at=stop_at)[0])
        else:
            other = Seat(datas[0], f"other-{len(results)}", parent=parent)
            member = Seat(datas[1], "solo-0", parent=parent, stop_at=stop_at)
            results.append(run_stack(folder, [other, member]).results["solo-0"])
    return results


@pytest.mark.parametrize(("first", "then"), [("solo", "fused"), ("fused", "solo"), ("fused", "fused")])
@BOTH
def test_stopped_and_resumed_equals_uninterrupted(study, tmp_path, algorithm, first, then):
    even, _, parent = study
    datas = variants(even, ALGORITHMS[algorithm], 2)
    whole = solo(tmp_path, [datas[1]], parent)[0]
    paused, resumed = stop_and_go_on(tmp_path, datas, parent, first, then)
    assert (paused.outcome.finished, paused.outcome.metrics["steps"], paused.saves[-1]) == (False, LEFT_AT, LEFT_AT)
    assert paused.weights == {}
    assert_same_reports(told(paused, resumed), whole.reports)
    assert_same_outcome(resumed, whole)


@BOTH
def test_a_warm_member_goes_on_as_a_warm_stage(study, tmp_path, algorithm):
    even, _, parent = study
    short, longer = ({**ALGORITHMS[algorithm], "max_steps": steps} for steps in (20, 40))
    solo(tmp_path, [variant(even, short, 1)], parent)
    warm = last_checkpoint(tmp_path, "alone", step=20)
    data = variant(even, longer, 1, lr=5e-3)
    alone = run_stage(tmp_path, data, parent=parent, warm=warm, name="warm-alone")[0]
    other = Seat(variant(even, longer, 0), "other", parent=parent)
    run = fuse(tmp_path, [other, Seat(data, "warm", parent=parent, warm=warm)])
    assert [step for step, *_ in run.results["warm"].reports if step <= 20] == []
    assert_same_outcome(run.results["warm"], alone)


def test_who_reaches_the_accuracy_to_stop_at_ends_there_and_the_others_train_on(study, tmp_path):
    even, _, parent = study
    datas = [variant(even, {**SFT, "stop_at_accuracy": limit}, seed) for seed, limit in enumerate((1.0, 0.05))]
    _, run = compare(tmp_path, datas, parent)
    steps = [run.results[f"solo-{number}"].outcome.metrics["steps"] for number in range(2)]
    assert steps[0] > steps[1]


def test_a_member_that_cant_be_set_up_fails_alone_and_leaves_every_bit_of_the_others(study, tmp_path):
    even, _, parent = study
    datas = variants(even, SFT, 2)
    odd = {**datas[1], "model": {**datas[1]["model"], "d_ff": 64}}
    run_stage(tmp_path, odd, name="another-layout", stop_at=4)
    shutil.copytree(tmp_path / "another-layout" / "checkpoints", tmp_path / "fused" / "layout" / "checkpoints")
    broken = [
        Seat(datas[1], "layout", parent=parent, arrives_at=7),
        Seat(odd, "key", arrives_at=8),
        Seat(datas[1], "parent", parent=tmp_path / "nowhere", arrives_at=9),
    ]
    (tmp_path / "spared").mkdir()
    expected = run_stack(tmp_path / "spared", seats_of(datas, parent))
    run = fuse(tmp_path, [*seats_of(datas, parent), *broken])
    assert run.errors.keys() == {"layout", "key", "parent"}
    assert "the checkpoint step-3 was written with" in run.errors["layout"]
    assert "model.d_ff=64: the stack's members have 32" in run.errors["key"]
    assert "FileNotFoundError" in run.errors["parent"]
    for name, result in expected.results.items():
        assert all(torch.equal(run.results[name].weights[key], weight) for key, weight in result.weights.items())
        assert run.results[name].reports == result.reports


def test_a_first_member_that_cant_be_set_up_does_not_end_the_program(study, tmp_path):
    even, _, parent = study
    data = variants(even, SFT, 1)[0]
    zero = {**data, "deepspeed": {"zero_optimization": {"stage": 1}}}
    run = fuse(tmp_path, [Seat(zero, "zero"), Seat(data, "plain", parent=parent)])
    assert "deepspeed.zero_optimization.stage=1: only stages with 0 can be fused" in run.errors["zero"]
    assert run.results["plain"].outcome.finished


def test_a_member_whose_output_cant_be_written_fails_alone(study, tmp_path):
    even, _, parent = study
    datas = variants(even, SFT, 2)
    (tmp_path / "fused" / "solo-0").mkdir(parents=True)
    (tmp_path / "fused" / "solo-0" / "output").write_text("a file in the way")
    run = fuse(tmp_path, seats_of(datas, parent))
    assert run.errors.keys() == {"solo-0"}
    assert run.results["solo-1"].outcome.finished


def test_members_share_what_the_process_takes(study, tmp_path):
    even, _, parent = study
    datas = variants(even, SFT, 4)
    run = fuse(tmp_path, seats_of(datas, parent))
    (alone,) = run_stack(tmp_path, [Seat(datas[0], "alone", parent=parent)]).results.values()
    parts = [result.outcome.peak_memory_bytes for result in run.results.values()]
    assert max(parts) < alone.outcome.peak_memory_bytes / 2
    assert all(result.outcome.busy_s > 0 for result in run.results.values())


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 1000), st.integers(0, 40)), min_size=2, max_size=3, unique_by=lambda s: s[0]
)


def compare_drawn(study, folder, algorithm, data):
    even, _, parent = study
    of_a_member = calm_knobs(algorithm, max_steps=st.integers(50, 60))
    drawn = [(seed, at, data.draw(of_a_member)) for seed, at in data.draw(ARRIVALS)]
    datas = [variant(even, ALGORITHMS[algorithm], seed, **own) for seed, _, own in drawn]
    seats = seats_of(datas, parent)
    for seat, (_, at, _) in zip(seats, drawn, strict=True):
        seat.arrives_at = at
    alone, run = solo(folder, datas, parent), fuse(folder, seats)
    for number, expected in enumerate(alone):
        assert_same(run.results[f"solo-{number}"], expected)


@BOTH
@given(data=st.data())
@settings(DRAWN, max_examples=1)
def test_drawn_hyperparameters_and_arrivals(study, tmp_path_factory, algorithm, data):
    compare_drawn(study, tmp_path_factory.mktemp("drawn"), algorithm, data)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@BOTH
@given(data=st.data())
@settings(DRAWN, max_examples=20)
def test_many_drawn_hyperparameters_and_arrivals(study, tmp_path_factory, algorithm, data):
    compare_drawn(study, tmp_path_factory.mktemp("drawn"), algorithm, data)
