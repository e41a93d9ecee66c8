"""The fused stage for stages that sample first: rejection sampling, distillation, preferences; each by itself."""

from dataclasses import replace

import pytest

from experiments.samples import preference_pairs, read_samples, verified
from tests.unit.experiments.fusion.beside import (
    assert_same_step,
    assert_same_updates,
    run_fused_beside,
    run_solo_seen,
)
from tests.unit.experiments.fusion.fused_runs import (
    variants,
    write_even_problems,
    write_mixed_problems,
)
from tests.unit.experiments.stack_runs import Seat, run_stack
from tests.unit.experiments.stage_runs import SAMPLING, run_stage, sampled_algorithms, stage_data, told
from tests.unit.experiments.test_fused import (
    LEFT_AT,
    assert_same,
    assert_same_outcome,
    assert_same_reports,
    compare,
    fuse,
    seats_of,
    solo,
    stop_and_go_on,
)

ALGORITHMS = sampled_algorithms(max_steps=50, beta=0.3)
EACH = pytest.mark.parametrize("algorithm", ALGORITHMS)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """(problems without padding, problems with, outputs of two warm-ups that are right now and then)."""
    folder = tmp_path_factory.mktemp("fused-sampled")
    even, mixed = write_even_problems(folder), write_mixed_problems(folder)
    parents = []
    for seed in range(2):
        data = stage_data(even, {"name": "sft", "max_steps": 150, "batch_size": 16}, lr=1e-2, seed=seed)
        run_stage(folder, data, name=f"warm-up-{seed}")
        parents.append(folder / f"warm-up-{seed}" / "output")
    return even, mixed, parents


def own_options(algorithm, datas):
    """With what members of one stack may differ in. Preferences are as calm as runs of GRPO, see `fused_runs.variants`:
    the gradients of what a pair's answers have in common add up to nothing too."""
    options = [{"sampling": {**SAMPLING, "per_prompt": 6 + 2 * number, "temperature": 1.2}} for number in range(8)]
    if algorithm == "dpo":
        options = [{**some, "beta": 0.1 + 0.1 * n, "label_smoothing": 0.05 * n} for n, some in enumerate(options)]
        datas = [{**d, "optimizer": {**d["optimizer"], "lr": d["optimizer"]["lr"] * 0.3, "eps": 1e-4}} for d in datas]
    with_options = zip(datas, options[: len(datas)], strict=True)
    return [{**data, "algorithm": {**data["algorithm"], **some}} for data, some in with_options]


@EACH
def test_two_members_end_as_they_do_alone(study, tmp_path, algorithm):
    even, _, (parent, _) = study
    alone, run = compare(tmp_path, own_options(algorithm, variants(even, ALGORITHMS[algorithm], 2)), parent)
    assert run.results["solo-0"].series("train/loss") != run.results["solo-1"].series("train/loss")
    assert [run.results[f"solo-{n}"].saves[-1] for n in range(2)] == [result.saves[-1] for result in alone]
    samples = [
        [read_samples(tmp_path / where / f"solo-{number}" / "output") for number in range(2)]
        for where in ("alone", "fused")
    ]
    assert samples[0] == samples[1]
    assert samples[0][0] != samples[0][1]


@pytest.mark.slow
@EACH
@pytest.mark.parametrize("width", [1, 8])
@pytest.mark.parametrize("padded", [False, True], ids=["even", "padded"])
def test_members_of_other_widths_end_as_they_do_alone(study, tmp_path, algorithm, width, padded):
    even, mixed, (parent, _) = study
    datas = own_options(algorithm, variants(mixed if padded else even, ALGORITHMS[algorithm], width))
    alone, run = solo(tmp_path, datas, parent), fuse(tmp_path, seats_of(datas, parent))
    for number, expected in enumerate(alone):
        mine = run.results[f"solo-{number}"]
        assert_same_reports(without_first_preference(mine.reports), without_first_preference(expected.reports))
        assert_same_outcome(mine, expected)


def without_first_preference(reports):
    """At the first step policy and reference are one, so margins are rounding, and rounding is above zero or not."""
    name = "train/preference_accuracy"
    return [(at, {k: v for k, v in said.items() if (at, k) != (1, name)}, done) for at, said, done in reports]


@pytest.mark.parametrize("algorithm", ["rejection_sft", "dpo"])
def test_every_step_is_the_step_that_the_solo_stage_makes_from_there(study, tmp_path, algorithm):
    """Eight members at full rates, each step from the solo stage's own state."""
    _, mixed, (parent, _) = study
    datas = variants(mixed, {**ALGORITHMS[algorithm], "max_steps": 20}, 8)
    solo_seen = run_solo_seen(tmp_path, datas, parent)
    items = {}
    for number in range(8):
        samples = read_samples(tmp_path / f"solo-{number}" / "output")
        chosen = preference_pairs if algorithm == "dpo" else verified
        items[str(number)] = chosen(samples, SAMPLING["keep"])
    steps = run_fused_beside(tmp_path, datas, parent, [stood for _, stood in solo_seen], items)
    for step, members in enumerate(steps):
        for number, (mine, (result, _)) in enumerate(zip(members, solo_seen, strict=True)):
            _, theirs, _ = [r for r in result.reports if "train/lr" in r[1]][step]
            if step == 0:
                mine.said.pop("train/preference_accuracy", None)  # see `without_first_preference`
            assert_same_step(mine.said, theirs, f"member {number}, step {step}")
            assert_same_updates(mine.led, datas[number], theirs["train/lr"], f"member {number}, step {step}")


@EACH
def test_each_member_samples_its_own_parent_whenever_it_comes(study, tmp_path, algorithm):
    even, _, parents = study
    datas = variants(even, ALGORITHMS[algorithm], 2)
    alone = []
    for number, data in enumerate(datas):
        (tmp_path / str(number)).mkdir()
        alone += solo(tmp_path / str(number), [data], parents[number])
    seats = [Seat(data, f"solo-{n}", parent=parents[n], arrives_at=20 * n) for n, data in enumerate(datas)]
    run = fuse(tmp_path, seats)
    for number, expected in enumerate(alone):
        assert_same(run.results[f"solo-{number}"], expected)


@pytest.mark.parametrize(("first", "then"), [("solo", "fused"), ("fused", "solo"), ("fused", "fused")])
@EACH
def test_stopped_and_resumed_equals_uninterrupted(study, tmp_path, algorithm, first, then):
    even, _, (parent, _) = study
    datas = variants(even, ALGORITHMS[algorithm], 2)
    whole = solo(tmp_path, [datas[1]], parent)[0]
    paused, resumed = stop_and_go_on(tmp_path, datas, parent, first, then)
    assert (paused.outcome.finished, paused.outcome.metrics["steps"], paused.saves[-1]) == (False, LEFT_AT, LEFT_AT)
    assert_same_reports(told(paused, resumed), whole.reports)
    assert_same_outcome(resumed, whole)


def test_who_is_asked_to_stop_does_not_wait_until_all_others_have_sampled(study, tmp_path):
    even, _, (parent, _) = study
    datas = variants(even, ALGORITHMS["rejection_sft"], 3)
    seats = [Seat(data, f"solo-{n}", parent=parent) for n, data in enumerate(datas)]
    seats[0].stop_at = 1
    run = fuse(tmp_path, seats)
    first, second, third = (run.results[f"solo-{n}"] for n in range(3))
    assert (first.outcome.finished, first.saves, first.reports) == (False, [0], [])
    assert second.outcome.finished
    assert third.outcome.finished
    whole = solo(tmp_path, datas[:1], parent)[0]
    (resumed,) = fuse(tmp_path, [replace(seats[0], stop_at=-1)]).results.values()
    assert_same(resumed, whole)


def test_a_policy_and_a_student_of_it_may_share_a_stack(study, tmp_path):
    even, _, (parent, _) = study
    datas = [variants(even, ALGORITHMS[name], 1)[0] for name in ("rejection_sft", "distill")]
    compare(tmp_path, datas, parent)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [("rejection_sft", "none of .* answers is right"), ("dpo", "has both a right and a wrong")],
)
def test_a_member_whose_policy_is_never_right_fails_alone(study, tmp_path, algorithm, message):
    even, _, (parent, _) = study
    data = variants(even, ALGORITHMS[algorithm], 1)[0]
    unlucky = {**data, "algorithm": {**data["algorithm"], "sampling": {"prompts": 2, "per_prompt": 2}}}
    run = run_stack(tmp_path, [Seat(unlucky, "unlucky"), *seats_of([data], parent)])
    assert run.errors.keys() == {"unlucky"}
    assert message.split(" .* ")[-1] in run.errors["unlucky"]
    assert run.results["solo-0"].outcome.finished


def test_preferences_of_pairs_are_counted(study, tmp_path):
    even, _, (parent, _) = study
    run = run_stack(tmp_path, seats_of(variants(even, ALGORITHMS["dpo"], 1), parent))
    pairs = preference_pairs(read_samples(tmp_path / "solo-0" / "output"), SAMPLING["keep"])
    assert run.results["solo-0"].outcome.metrics["pairs"] == len(pairs) > 0
