"""What a `ports.Store` promises about studies, trials, stages and the ledger."""

import math
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.events import (
    RecordAllocation,
    RecordDevices,
    RecordMeasured,
    RecordPoint,
    RecordPredictions,
    RecordStage,
    RecordStudy,
    RecordTrial,
)
from orchestrator.ports import Store, TransitionRefused
from orchestrator.schema import (
    Allocation,
    Outcome,
    Prediction,
    StageState,
    Trial,
    TrialState,
)
from tests.contracts.store_records import (
    line,
    moved,
    new,
    queued,
    refused,
)
from tests.unit.orchestrator.builders import device, stage, study, variant, warm_started


class QueueContract:
    """Subclasses give a `store` fixture."""

    @pytest.fixture
    def trial(self, store: Store) -> Trial:
        return queued(store)

    # --- studies, trials, stages, devices, predictions ---------------------------------------------------------------

    def test_a_study_reads_back_as_it_was_written(self, store: Store) -> None:
        written = replace(
            study(),
            sweep=("seed=0,1",),
            config={"seed": 0, "nested": {"lr": 1e-3}},
            overrides=("a=b",),
            tenant="vision",
            priority=-3,
            device_kind=None,
        )
        store.apply([RecordStudy(study=written)])
        assert store.study("study-1") == written
        changed = replace(study(), ended_at=3.0)
        store.apply([RecordStudy(study=changed)])
        assert store.study("study-1") == changed

    def test_what_is_unknown_is_a_key_error(self, store: Store) -> None:
        for ask in (store.study, store.trial):
            with pytest.raises(KeyError):
                ask("nope")
        with pytest.raises(KeyError):
            store.command(7)
        assert store.trials("nope") == []

    def test_studies_come_oldest_first_and_those_that_have_not_ended_alone(self, store: Store) -> None:
        ended = replace(study("ended", at=1.5), ended_at=9.0)
        store.apply([RecordStudy(study=s) for s in (study("new", at=2.0), ended, study("old", at=1.0))])
        assert [s.study_id for s in store.studies()] == ["old", "ended", "new"]
        assert [s.study_id for s in store.studies(open_only=True)] == ["old", "new"]

    def test_trials_read_back_as_they_were_last_written_by_number(self, store: Store) -> None:
        config = {"seed": 3, "optimizer": {"lr": 1e-3, "betas": [0.9, 0.98]}, "empty": {}, "list": [{"a": 1}]}
        warm = replace(stage("warm"), config=config, warm_from="c", warm_step=7)
        made = replace(variant(warm, stage("main", warm), overrides=("seed=3",), seed=3), config=config)
        first, second = (replace(t, variant=made, cloned_from="x") for t in warm_started(2))
        running = moved(first, TrialState.RUNNING, attempt=1, preemptions=2, latest={"loss": 0.1})
        done = moved(
            running.trial,
            TrialState.COMPLETED,
            progress=0.5,
            metrics={"accuracy": 0.5},
            reused_stages=("k",),
            started_at=1.0,
            ended_at=2.0,
            gpu_seconds=1.5,
            error="none",
        )
        store.apply([RecordStudy(study=study()), *new(second, first)])
        store.apply([running])
        store.apply([done])
        assert store.trials("study-1") == [done.trial, second]
        assert store.trial(first.trial_id) == done.trial

    def test_a_diverged_loss_and_what_a_program_printed_survive(self, store: Store, trial: Trial) -> None:
        metrics = {"loss": math.nan, "kl": math.inf}
        record = moved(trial, TrialState.FAILED, metrics=metrics, error="\x1b[31m caf\u00e9 \U0001f600 \u4e2d")
        store.apply([record])
        read = store.trial(trial.trial_id)
        assert math.isnan(read.metrics["loss"])
        assert read.metrics["kl"] == math.inf
        assert read.error == record.trial.error
        assert math.isnan(store.journal(0, 9)[-1].payload["metrics"]["loss"])

    def test_an_extended_trial_has_its_new_variant_and_others_keep_theirs(self, store: Store) -> None:
        first, second = warm_started(2)
        store.apply([RecordStudy(study=study()), *new(first, second), moved(first, TrialState.COMPLETED)])
        longer = variant(stage("longer", steps=99))
        other = replace(second, variant=longer)
        extended = replace(moved(first, TrialState.QUEUED, TrialState.COMPLETED, variant=longer), new_variant=True)
        store.apply([extended, moved(other, TrialState.RUNNING)])
        assert store.trial(first.trial_id).variant == longer
        assert store.trial(second.trial_id).variant == second.variant

    def test_only_completed_stages_are_found_with_their_outcome(self, store: Store) -> None:
        warmup, main = warm_started(1)[0].variant.stages
        outcome = Outcome(metrics={"accuracy": 0.25}, busy_s=2.0, peak_memory_bytes=2**40)
        store.apply([RecordStage(stage=warmup, state=StageState.RUNNING, outcome=Outcome())])
        store.apply(
            [
                RecordStage(stage=warmup, state=StageState.COMPLETED, outcome=outcome),
                RecordStage(stage=main, state=StageState.RUNNING, outcome=Outcome()),
            ]
        )
        assert store.completed_stages([warmup.key, main.key, "other"]) == {warmup.key: outcome}
        assert store.completed_stages([]) == {}

    def test_devices_are_those_recorded_last_by_node_and_index(self, store: Store) -> None:
        store.apply([RecordDevices(devices=(device(0, "gone"),))])
        store.apply([RecordDevices(devices=(device(10, "b"), device(2, "b"), device(0, "a", memory_bytes=2**40)))])
        assert [(d.node_id, d.index) for d in store.devices()] == [("a", 0), ("b", 2), ("b", 10)]
        assert store.devices()[0] == device(0, "a", memory_bytes=2**40)

    def test_of_a_trial_the_first_prediction_stays(self, store: Store) -> None:
        first = Prediction(trial_id="b", study_id="study-1", made_at=1.0, start_at=2.0, end_at=3.0)
        other = replace(first, trial_id="a")
        store.apply([RecordPredictions(predictions=(first,))])
        store.apply([RecordPredictions(predictions=(replace(first, start_at=9.0), other))])
        assert store.predictions("study-1") == [other, first]
        assert store.predictions("study-2") == []

    # --- compare-and-set ---------------------------------------------------------------------------------------------

    def test_a_trial_that_is_in_another_state_is_refused(self, store: Store, trial: Trial) -> None:
        store.apply([moved(trial, TrialState.RUNNING)])
        stale = moved(trial, TrialState.PAUSED)
        refused(store, [stale], f"trial {trial.trial_id}: expected queued, found running")

    def test_a_trial_that_is_unknown_or_taken_or_of_no_study_is_refused(self, store: Store, trial: Trial) -> None:
        (stranger,) = warm_started(1, "study-2")
        refused(store, [moved(stranger, TrialState.RUNNING)], "expected queued, found none")
        refused(store, new(trial), "expected none, found queued")
        refused(store, new(stranger), "there is no study study-2")

    def test_one_record_that_does_not_fit_takes_all_of_the_call_back(self, store: Store, trial: Trial) -> None:
        fits = moved(trial, TrialState.RUNNING)
        point = RecordPoint(study_id="study-1", trial_id=trial.trial_id, step=1, metrics={}, at=1.0)
        records = [fits, point, RecordAllocation(allocation=line("x")), RecordDevices(devices=(device(0),))]
        refused(store, [*records, fits], "expected queued, found running")

    def test_records_of_one_trial_are_written_in_their_order(self, store: Store, trial: Trial) -> None:
        running = moved(trial, TrialState.RUNNING)
        progress = [
            RecordTrial(trial=replace(running.trial, progress=p), was=TrialState.RUNNING, at=3.0, track=False)
            for p in (0.25, 0.5)
        ]
        paused = moved(running.trial, TrialState.PAUSED, progress=0.75)
        store.apply([running, *progress, paused, moved(paused.trial, TrialState.QUEUED)])
        assert store.trial(trial.trial_id) == replace(paused.trial, state=TrialState.QUEUED)
        assert [e.payload["state"] for e in store.journal(0, 99, trial_id=trial.trial_id)] == [
            "queued",
            "running",
            "paused",
            "queued",
        ]

    # Every example makes a study of its own in the one store, and every subclass runs this on its own store.
    @settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
        max_examples=30,
        deadline=None,
    )
    @given(path=st.lists(st.sampled_from(TrialState), min_size=1, max_size=6))
    def test_a_path_of_states_is_taken_if_each_of_its_steps_exists(self, store: Store, path: list[TrialState]) -> None:
        legal = {(a, b) for a, b in product(TrialState, TrialState) if a.may_become(b)}
        study_id = f"study-{len(store.studies())}"
        (trial,) = warm_started(1, study_id)
        store.apply([RecordStudy(study=study(study_id)), *new(trial)])
        steps = list(zip([TrialState.QUEUED, *path], path, strict=False))
        records = [moved(replace(trial, state=a), b) for a, b in steps]
        try:
            store.apply(records)
        except TransitionRefused:
            assert not set(steps) <= legal
            assert store.trial(trial.trial_id).state is TrialState.QUEUED
        else:
            assert set(steps) <= legal
            assert store.trial(trial.trial_id).state is path[-1]

    def test_every_pair_of_states_is_accepted_if_and_only_if_it_exists(self, store: Store) -> None:
        pairs = list(product(TrialState, TrialState))
        trials = [replace(t, state=was) for t, (was, _) in zip(warm_started(len(pairs)), pairs, strict=True)]
        store.apply([RecordStudy(study=study()), *new(*trials)])
        for trial, (was, to) in zip(trials, pairs, strict=True):
            if was.may_become(to):
                store.apply([moved(trial, to)])
            else:
                refused(store, [moved(trial, to)], f"{was} can't become {to}")
        for trial, (was, to) in zip(store.trials("study-1"), pairs, strict=True):
            assert trial.state is (to if was.may_become(to) else was)

    # --- the ledger --------------------------------------------------------------------------------------------------

    def test_the_ledger_comes_by_the_time_its_lines_were_opened(self, store: Store) -> None:
        late, early, other = line("x", 2.0), line("y", 1.0), line("z", 1.5, "study-2")
        closed = replace(late, closed_at=3.0, busy_s=0.5, peak_memory_bytes=2**41, utilisation=0.75)
        store.apply(
            [RecordStudy(study=study()), RecordStudy(study=study("study-2")), RecordAllocation(allocation=late)]
        )
        store.apply([RecordAllocation(allocation=a) for a in (early, other, closed)])
        assert store.allocations("study-1") == [early, closed]
        assert store.allocations() == [early, other, closed]

    def test_what_is_about_a_study_is_its_own_and_who_sat_beside_its_stacks(self, store: Store) -> None:
        def seat(bundle_id: str, opened_at: float, study_id: str, device_id: str, stack_id: str = "") -> Allocation:
            made = line(bundle_id, opened_at, study_id)
            return replace(made, device_ids=(device_id,), share=0.25, stack_id=stack_id)

        own = [seat("a", 3.0, "study-1", "d0", "stack"), seat("b", 9.0, "study-1", "d1")]
        member = seat("c", 2.0, "study-2", "d0", "stack")
        beside, earlier = seat("d", 1.0, "study-2", "d0"), seat("e", 0.5, "study-2", "d0")
        elsewhere, behind = seat("f", 3.0, "study-2", "d1"), seat("g", 8.0, "study-2", "d0")
        lines = [*own, member, beside, earlier, elsewhere, behind]
        store.apply([RecordStudy(study=study()), RecordStudy(study=study("study-2"))])
        store.apply([RecordAllocation(allocation=a) for a in lines])
        ends = {"a": 8.0, "c": 5.0, "d": 2.5, "e": 2.0}
        closed = {a.bundle_id: replace(a, closed_at=ends[a.bundle_id]) for a in lines if a.bundle_id in ends}
        store.apply([RecordAllocation(allocation=a) for a in closed.values()])
        assert store.allocations_about("study-1") == [closed["d"], closed["c"], closed["a"], own[1]]
        assert [a.bundle_id for a in store.allocations_about("study-2")] == ["e", "d", "c", "a", "f", "g"]
        assert store.allocations_about("study-3") == []

    def test_a_line_is_opened_once_and_closed_once(self, store: Store, trial: Trial) -> None:
        opened = line("x")
        closed = replace(opened, closed_at=3.0)
        store.apply([RecordAllocation(allocation=opened)])
        refused(store, [RecordAllocation(allocation=opened)], "bundle x: its line is in the ledger already")
        store.apply([RecordAllocation(allocation=closed)])
        for again in (closed, replace(closed, closed_at=4.0)):
            refused(store, [RecordAllocation(allocation=again)], "bundle x: its line is closed")
        refused(store, [RecordAllocation(allocation=opened)], "bundle x: its line is in the ledger already")

    def test_what_was_measured_is_on_the_open_line_and_leaves_the_rest_of_it_alone(
        self, store: Store, trial: Trial
    ) -> None:
        store.apply([RecordAllocation(allocation=line("x"))])
        for peak, utilisation in ((2**40, None), (2**41, 0.5)):
            store.apply([RecordMeasured(bundle_id="x", peak_memory_bytes=peak, utilisation=utilisation)])
            assert store.allocations() == [replace(line("x"), peak_memory_bytes=peak, utilisation=utilisation)]

    def test_a_line_is_opened_measured_and_closed_in_one_call(self, store: Store, trial: Trial) -> None:
        closed = replace(line("x"), closed_at=3.0, peak_memory_bytes=2**41)
        measured = RecordMeasured(bundle_id="x", peak_memory_bytes=2**41, utilisation=None)
        store.apply([RecordAllocation(allocation=line("x")), measured, RecordAllocation(allocation=closed)])
        assert store.allocations() == [closed]

    def test_a_line_that_is_closed_or_unknown_can_not_be_measured(self, store: Store, trial: Trial) -> None:
        measured = RecordMeasured(bundle_id="x", peak_memory_bytes=1, utilisation=None)
        refused(store, [measured], "bundle x: it has no line in the ledger")
        store.apply([RecordAllocation(allocation=line("x"))])
        store.apply([RecordAllocation(allocation=replace(line("x"), closed_at=3.0))])
        refused(store, [measured], "bundle x: its line is closed")

    def test_a_line_that_is_unknown_or_of_no_study_is_refused(self, store: Store, trial: Trial) -> None:
        refused(store, [RecordAllocation(allocation=replace(line("x"), closed_at=2.0))], "no line in the ledger")
        refused(store, [RecordAllocation(allocation=line("x", study_id="study-2"))], "there is no study study-2")
