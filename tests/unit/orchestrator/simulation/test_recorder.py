"""The recorder's sums are what the records of a store add up to."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from orchestrator.events import Record, RecordTrial
from orchestrator.schema import TrialState
from orchestrator.simulation.recorder import Recorder, Series
from orchestrator.simulation.results import occupancy
from orchestrator.state import validate
from orchestrator.store.memory import MemoryStore
from tests.unit.orchestrator.simulation.workloads import node, simulation, stage, trial


class Keeping(Recorder):
    """A recorder that hands everything on to a store that keeps it. That refuses what no loop may do."""

    def __init__(self) -> None:
        super().__init__()
        self.store = MemoryStore()
        self._submitted: set[str] = set()

    def apply(self, records: list[Record], *, term: int = 0, batch: int = 0) -> None:
        super().apply(records)
        self.store.apply([self._as_submitted(record) for record in records])

    def _as_submitted(self, record: Record) -> Record:
        """Live, whoever submits a study puts its trials into the store; the loop finds them there."""
        if not isinstance(record, RecordTrial) or record.trial.trial_id in self._submitted:
            return record
        self._submitted.add(record.trial.trial_id)
        return replace(record, was=None)


def random_trials(seed: int, count: int = 60):
    random = Random(seed)
    at = 0.0
    trials = []
    for number in range(count):
        at += random.choice((0.0, 1.0, 7.5))
        share = random.choice((0.25, 0.5, 1.0))
        stages = [stage(random.uniform(1.0, 60.0), share=share) for _ in range(random.choice((1, 2)))]
        if random.random() < 0.3:
            stages[0] = stage(20.0, key="warm-up")
        tenant = random.choice(("reasoning", "alignment"))
        trials.append(trial(f"t{number}", at, *stages, study=f"s{number // 5}", tenant=tenant))
    return trials


@pytest.fixture(scope="module", params=["preemption=never", "preemption=least_lost"])
def played(request: pytest.FixtureRequest):
    """A contended run under quotas, with all of its records kept."""
    recorder = Keeping()
    overrides = ("ordering=fair_share", "tenants=two_teams", request.param)
    run = simulation(random_trials(1), [node("n0", 2), node("n1", 2)], *overrides, recorder=recorder)
    run.to_the_end()
    validate(run.loop.state)
    return run, recorder


def trials_of(recorder: Keeping):
    store = recorder.store
    return [trial for study in store.studies() for trial in store.trials(study.study_id)]


def test_it_does_what_the_same_loop_does_with_a_store(played):
    plain = simulation(
        random_trials(1), [node("n0", 2), node("n1", 2)], *("ordering=fair_share", "tenants=two_teams"),
        f"preemption={played[0]._config['preemption']['name']}",
    )  # fmt: skip
    plain.to_the_end()
    assert plain.recorder.completion_s == played[1].completion_s
    assert plain.recorder.held_device_s == played[1].held_device_s


def test_every_trial_is_over(played):
    _, recorder = played
    assert recorder.unfinished == 0
    assert recorder.by_state[TrialState.COMPLETED] == len(trials_of(recorder)) == 60


def test_completion_times_are_those_of_the_trials(played):
    _, recorder = played
    assert sorted(recorder.completion_s) == sorted(t.ended_at - t.submitted_at for t in trials_of(recorder))


def test_waits_are_those_of_the_trials_that_ever_ran(played):
    _, recorder = played
    started = [t for t in trials_of(recorder) if t.started_at is not None]
    assert sorted(recorder.wait_s) == sorted(t.started_at - t.submitted_at for t in started)


def test_device_seconds_are_those_of_the_ledger(played):
    _, recorder = played
    ledger = recorder.store.allocations()
    assert recorder.held_device_s == pytest.approx(sum(line.device_seconds(0.0) for line in ledger))
    assert recorder.busy_device_s == pytest.approx(sum(line.busy_device_seconds() for line in ledger))
    assert recorder.series.held == pytest.approx(recorder.held_device_s)


def test_starts_are_the_lines_of_the_ledger(played):
    assert played[1].starts == len(played[1].store.allocations())


def test_preemptions_are_those_of_the_trials(played):
    run, recorder = played
    assert recorder.preemptions == sum(t.preemptions for t in trials_of(recorder))
    assert (recorder.preemptions > 0) == (run._config["preemption"]["name"] == "least_lost")


def test_the_makespan_is_from_the_first_submission_to_the_last_end(played):
    _, recorder = played
    trials = trials_of(recorder)
    assert recorder.began_at == min(t.submitted_at for t in trials)
    assert recorder.ended_at == max(t.ended_at for t in trials)


def test_ratios_are_by_the_tenants_of_the_studies(played):
    _, recorder = played
    assert set(recorder.ratios) == {"reasoning", "alignment"}
    assert sum(ratios.count for ratios in recorder.ratios.values()) == 60


def test_nobody_waits_and_nothing_is_held_in_the_end(played):
    _, recorder = played
    assert (recorder.waiting, recorder.held_units) == ({}, 0)


def test_a_series_stays_bounded_and_keeps_the_mean():
    series = Series()
    values = np.random.default_rng(0).uniform(0.0, 4.0, 50_000)
    for at, value in enumerate(values):
        series.add(float(at), at + 1.0, value, 4.0, 2)
    assert len(series.points) <= 1024
    recorder = Recorder()
    recorder.series = series
    curve = occupancy(recorder)[1:]
    starts = [point[0] for point in series.points]
    weights = np.diff(starts)
    mean = np.average([share for _, share, _ in curve], weights=weights)
    assert mean == pytest.approx(values[: int(starts[-1])].mean() / 4.0)
    assert {round(waiting, 9) for _, _, waiting in curve} == {2.0}
