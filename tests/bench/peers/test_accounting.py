"""What a run cost and gave, on inputs whose answers are known."""

from pathlib import Path

import pytest

from orchestrator.schema import Allocation, Stage
from orchestrator.throughput import throughput
from tests.bench.peers.accounting import (
    Experiment,
    Hold,
    Work,
    as_data,
    best,
    cluster_device_seconds,
    device_seconds,
    from_data,
    holds_of_ledger,
    holds_of_processes,
    summary,
)
from tests.bench.peers.payload import Course, CourseChannel
from tests.bench.peers.study import numbers, spread, stages_of, unshared
from tests.bench.peers.tune_asha import credit_first


def hold(began_at, ended_at, share=1.0):
    return Hold(share=share, began_at=began_at, ended_at=ended_at)


def work(pid, began_at, ended_at, born_at=0.0):
    return Work(pid=pid, born_at=born_at, number=0, began_at=began_at, ended_at=ended_at)


def line(opened_at, closed_at, share=1.0, stack_id="", bundle_id="b"):
    return Allocation(
        bundle_id=bundle_id,
        study_id="s",
        stage_key="k",
        trial_ids=("t",),
        device_ids=("d",),
        share=share,
        opened_at=opened_at,
        closed_at=closed_at,
        stack_id=stack_id,
    )


def experiment(number, dev_accuracy=0.5, fraction=1.0, decided=True, completed=True, reused=0.0):
    return Experiment(
        number=number,
        decided=decided,
        completed=completed,
        fraction=fraction,
        reused=reused,
        dev_accuracy=dev_accuracy,
    )


def stage(name, budget_steps, key="k", parent_key=""):
    return Stage(
        name=name, key=key, parent_key=parent_key, entrypoint="m:f", config={"a": 1}, budget_steps=budget_steps
    )


def test_a_share_of_a_device_costs_its_part_of_the_time():
    assert device_seconds([hold(0.0, 10.0, share=0.5), hold(2.0, 5.0)]) == pytest.approx(8.0)


def test_the_cluster_is_paid_for_from_the_first_hold_to_the_last_release():
    assert cluster_device_seconds([hold(1.0, 3.0), hold(2.0, 11.0)], devices=2) == pytest.approx(20.0)


def test_a_process_holds_its_share_between_its_pieces_of_work_too():
    pieces = [work(1, 3.0, 4.0, born_at=2.0), work(1, 8.0, 9.0, born_at=2.0)]
    assert holds_of_processes(pieces, share=0.5, queued_at=0.0) == [hold(2.0, 9.0, share=0.5)]


def test_a_process_that_was_there_before_the_work_holds_nothing_until_then():
    assert holds_of_processes([work(1, 3.0, 4.0)], share=1.0, queued_at=2.5) == [hold(2.5, 4.0)]


def test_two_processes_of_one_number_are_told_apart_by_when_they_were_created():
    pieces = [work(1, 1.0, 2.0, born_at=0.5), work(1, 6.0, 7.0, born_at=5.0)]
    assert holds_of_processes(pieces, share=1.0, queued_at=0.0) == [hold(0.5, 2.0), hold(5.0, 7.0)]


def test_a_bundle_of_its_own_holds_what_its_ledger_line_says():
    assert holds_of_ledger([line(1.0, 4.0, share=0.5)]) == [hold(1.0, 4.0, share=0.5)]


def test_a_stack_holds_the_seats_that_members_have_left_until_its_last_one_goes():
    members = [line(0.0, 10.0, 0.25, "s", "last"), *(line(0.0, 2.0, 0.25, "s", f"b{n}") for n in range(3))]
    holds = holds_of_ledger(members)
    assert device_seconds(holds) == pytest.approx(10.0)
    assert holds[0] == hold(0.0, 10.0, share=pytest.approx(0.25 + 0.75 * 8.0 / 10.0))


def test_a_seat_that_is_taken_again_is_one_seat():
    members = [line(0.0, 4.0, 0.5, "s", "a"), line(4.0, 9.0, 0.5, "s", "b"), line(0.0, 9.0, 0.5, "s", "c")]
    assert holds_of_ledger(members) == [hold(0.0, 4.0, 0.5), hold(4.0, 9.0, 0.5), hold(0.0, 9.0, 0.5)]


def test_stacks_are_told_apart():
    seats = [line(0.0, 1.0, 1.0, "a", "first"), line(1.0, 2.0, 1.0, "b", "second")]
    assert holds_of_ledger(seats) == [hold(0.0, 1.0), hold(1.0, 2.0)]


def test_the_benchmark_counts_our_hours_as_our_own_headline_does():
    lines = [line(0.0, 4.0 + n, 0.25, "s", f"b{n}") for n in range(4)]
    held = throughput([], lines, now=9.0)["gpu_hours_held"] * 3600.0
    assert device_seconds(holds_of_ledger(lines)) == pytest.approx(held) == pytest.approx(7.0)


def test_an_open_line_is_refused():
    with pytest.raises(ValueError, match="open"):
        holds_of_ledger([line(0.0, None)])


def test_the_winner_is_the_best_on_dev_and_of_equals_the_first():
    assert best([experiment(0, 0.5), experiment(1, 0.9), experiment(2, 0.9)]).number == 1


def test_who_was_not_decided_can_not_win():
    assert best([experiment(0, 0.5), experiment(1, 0.9, decided=False)]).number == 0
    with pytest.raises(ValueError, match="decided"):
        best([experiment(0, decided=False)])


def test_a_summary_counts_decisions_and_fractions_per_device_hour():
    some = [experiment(0), experiment(1, fraction=0.4, completed=False, reused=0.2), experiment(2, decided=False)]
    numbers_of_run = summary(some, [hold(0.0, 1800.0), hold(0.0, 900.0, share=2.0)], devices=2, wall_s=2000.0)
    assert numbers_of_run == {
        "wall_s": 2000.0,
        "device_s": 3600.0,
        "cluster_device_s": 3600.0,
        "wall_device_s": 4000.0,
        "decided": 2,
        "completed": 2,
        "completed_equivalent": pytest.approx(2.4),
        "completed_equivalent_reused": pytest.approx(0.2),
        "decided_per_device_hour": pytest.approx(2.0),
        "completed_equivalent_per_device_hour": pytest.approx(2.4),
    }


def test_what_a_system_hands_over_comes_back():
    some, holds = [experiment(3)], [hold(0.0, 1.5)]
    assert from_data(as_data(some, holds)) == (some, holds)


def test_a_warm_up_that_was_trained_once_is_the_first_ones_own_work():
    some = [experiment(0, reused=0.2), experiment(1, reused=0.2)]
    assert [e.reused for e in credit_first(some)] == [0.0, 0.2]


def test_a_course_counts_its_stages_by_their_steps():
    course = Course((stage("warmup", 100), stage("main", 300)), stage=1, progress=0.5)
    assert course.fraction == pytest.approx(250 / 400)
    course.stage = 2
    assert course.completed
    assert course.fraction == 1.0


def test_what_a_course_was_given_is_a_part_of_its_fraction():
    course = Course((stage("warmup", 100), stage("main", 300)), first=1, stage=1)
    assert course.given == course.fraction == pytest.approx(0.25)


def test_a_listener_hears_of_evaluations_and_a_course_of_all():
    heard = []
    course = Course((stage("main", 10),))
    channel = CourseChannel(course, lambda progress, accuracy: heard.append((progress, accuracy)))
    channel.report(1, {"train/loss": 1.0}, 0.1)
    channel.report(2, {"eval/accuracy": 0.7}, 0.2)
    assert heard == [(0.2, 0.7)]
    assert (course.progress, course.dev_accuracy) == (0.2, 0.7)


def test_few_variants_are_evenly_spread():
    assert spread(64, 4) == [0, 16, 32, 48]
    assert spread(3, 3) == [0, 1, 2]
    with pytest.raises(ValueError, match="use 1 to 3"):
        spread(3, 4)


def test_variants_are_read_as_they_were_laid_out(tmp_path: Path):
    import json
    from dataclasses import asdict

    stages = (stage("warmup", 1), stage("main", 2, key="l", parent_key="k"))
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "0000.json").write_text(json.dumps([asdict(s) for s in stages]))
    assert list(numbers(tmp_path)) == [0]
    assert stages_of(tmp_path, 0) == stages


def test_unshared_variants_have_the_same_stages_under_keys_of_their_own():
    from dataclasses import replace

    from orchestrator.sweep import compose_study

    shared = compose_study(["study=peers"]).variants[:2]
    first, second = unshared(shared)
    keys = [s.key for variant in (first, second) for s in variant.stages]
    assert len(set(keys)) == 4
    assert first.stages[1].parent_key == first.stages[0].key
    assert first.key == first.stages[-1].key
    assert [replace(s, key="", parent_key="") for s in first.stages] == [
        replace(s, key="", parent_key="") for s in shared[0].stages
    ]
