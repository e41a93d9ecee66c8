"""The event machine as the store knows it: what a new leader takes over, and what everybody else looks at."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from orchestrator.accounting import came_among
from orchestrator.estimate import stage_demands
from orchestrator.events import Instruction, LedgerRestored, NodeJoined, StudySubmitted
from orchestrator.ports import LeaderStore, Store
from orchestrator.schema import (
    Allocation,
    Demand,
    Device,
    DeviceKind,
    Outcome,
    Stage,
    StageState,
    Study,
    Trial,
    TrialState,
)
from orchestrator.state import SchedulerState
from orchestrator.state.memory_raises import raised_bytes, with_more
from orchestrator.state.records import StageRecord

PAST_RUNS = 64
"""How many runs of earlier studies a new leader, or whoever looks, learns from."""

OutputsAtHand = Callable[[Collection[str]], Mapping[str, Outcome]]


def demands_of(study: Study, stages: Collection[Stage], kind: DeviceKind) -> dict[str, Demand]:
    """What each stage asks for under the study's own `cluster` config, by stage key."""
    return stage_demands(stages, study.config["cluster"], kind)


def stages_of_trials(trials: Collection[Trial]) -> list[Stage]:
    """Every different stage of the trials."""
    return list({stage.key: stage for trial in trials for stage in trial.variant.stages}.values())


def reusable_stages(trials: Collection[Trial]) -> set[str]:
    """The keys of the stages whose outputs the trials may take over: those before a variant's last one. That one always
    runs, as the experiment that was asked for, and so it does where it is a part of another's trunk; unless a trial is
    behind it already."""
    before = {stage.key for trial in trials for stage in trial.variant.stages[:-1]}
    behind = {stage.key for trial in trials for stage in trial.variant.stages[: trial.stage_index]}
    asked_for = {trial.variant.stages[-1].key for trial in trials}
    return before - (asked_for - behind)


def restore_devices(state: SchedulerState, store: Store) -> None:
    """The devices that the last leader recorded."""
    by_node: dict[str, list[Device]] = {}
    for device in store.devices():
        by_node.setdefault(device.node_id, []).append(device)
    for node_id, devices in by_node.items():
        state.handle(NodeJoined(at=0.0, node_id=node_id, devices=tuple(devices)))


def restore_study(
    state: SchedulerState, store: LeaderStore, study: Study, outputs_at_hand: OutputsAtHand, at: float
) -> list[Instruction]:
    """A study that a leader has announced, as the store has it. Trials whose earlier stages' outputs are gone start
    from the beginning."""
    trials = store.trials(study.study_id)
    at_hand = outputs_at_hand(reusable_stages(trials))
    event = StudySubmitted(
        at=at,
        study=study,
        trials=tuple(_with_its_inputs(trial, at_hand) for trial in trials),
        demands=demands_of(study, stages_of_trials(trials), study.device_kind or DeviceKind.CPU),
        available_stages=at_hand,
        announced=True,
    )
    return state.handle(event)


def restore_ledger(state: SchedulerState, store: LeaderStore, at: float) -> list[Instruction]:
    """All use, how long stages took, and the bundles that run, up to `at`. Studies must have been restored before."""
    return _take_in_ledger(state, store, store.allocations(), at)


def outputs_in_store(store: Store) -> OutputsAtHand:
    """Completed stages by the store's word alone: for whoever only looks."""
    return lambda keys: store.completed_stages(sorted(keys))


def view(state: SchedulerState, store: Store, at: float, study_ids: Collection[str] = ()) -> None:
    """Fill an empty machine with all that is open in the store, and with `study_ids`, open or not."""
    restore_devices(state, store)
    studies = {study.study_id: study for study in store.studies(open_only=True)}
    studies |= {study_id: store.study(study_id) for study_id in study_ids}
    for study in sorted(studies.values(), key=lambda s: s.submitted_at):
        restore_study(state, store, study, outputs_in_store(store), at)
    # A leader may have written between one read and the next: a bundle whose trial did not run yet is left out.
    running = {t.variant.stages[t.stage_index].key for t in state.trials.values() if t.state is TrialState.RUNNING}
    ledger = [a for a in store.allocations() if a.closed_at is not None or a.stage_key in running]
    _take_in_ledger(state, store, ledger, at)


def _with_its_inputs(trial: Trial, at_hand: Mapping[str, Outcome]) -> Trial:
    waits = trial.state is TrialState.QUEUED
    if not waits or all(stage.key in at_hand for stage in trial.variant.stages[: trial.stage_index]):
        return trial
    return replace(trial, stage_index=0, progress=0.0, reused_stages=(), metrics={})


def _take_in_ledger(
    state: SchedulerState, store: LeaderStore, ledger: Sequence[Allocation], at: float
) -> list[Instruction]:
    among = came_among(ledger)
    _learn(state, ledger, at, among)
    _learn_from_the_past(state, store, ledger, at, among)
    for record in list(state.queue.records()):
        state.correct(record)
    tenants = {study.study_id: study.tenant for study in store.studies()}
    return state.handle(LedgerRestored(at=at, ledger=tuple(ledger), tenants=tenants))


def _learn(state: SchedulerState, ledger: Sequence[Allocation], at: float, among: Mapping[str, int]) -> None:
    """What stages took, and how far those that wait had come, or those that run when they were placed: of all that was
    done the part that their earlier lines held, since nobody wrote it down."""
    done = _done_fractions(state)
    for run, held in _runs_of(line for line in ledger if line.stage_key in state.stages).items():
        record = state.stages[held[0].stage_key]
        spans_s = [_span_s(line, at) for line in held]
        total_s = sum(spans_s)
        gained = _observe(state, record.stage, held, done.get(run, 0.0), at, among)
        if gained > 0.0 and total_s > 0.0 and record.waiters:
            earlier_s = total_s if held[-1].closed_at is not None else total_s - spans_s[-1]
            record.progress = max(record.progress, _warm(record.stage) + gained * earlier_s / total_s)


def _learn_from_the_past(
    state: SchedulerState, store: LeaderStore, ledger: Sequence[Allocation], at: float, among: Mapping[str, int]
) -> None:
    """What the latest runs of studies that are over took. Each costs a look into the store, so they are few."""
    runs = _runs_of(line for line in ledger if line.study_id not in state.studies and line.closed_at is not None)
    latest = sorted(runs.items(), key=lambda run: -run[1][-1].opened_at)[:PAST_RUNS]
    outcomes = store.completed_stages(sorted({stage_key for (_, stage_key), _ in latest}))
    known: dict[str, Stage] = {}
    for (_, stage_key), held in reversed(latest):
        if stage_key not in known:
            trial = store.trial(held[-1].trial_ids[0])
            known |= {stage.key: stage for stage in trial.variant.stages}
        stage = known.get(stage_key)  # a trial that was extended has other stages by now
        if stage is not None and stage_key in outcomes:
            steps = outcomes[stage_key].metrics.get("steps", float(stage.budget_steps))
            _observe(state, stage, held, min(1.0, steps / stage.budget_steps), at, among)


def _observe(
    state: SchedulerState, stage: Stage, held: Sequence[Allocation], done: float, at: float, among: Mapping[str, int]
) -> float:
    """Learn from the lines of one run of a stage, `done` (0 to 1) of which is done by now. The part that they did.
    `among`: how many a member's stack had when it came, by bundle id."""
    gained = max(0.0, done - _warm(stage))
    last = held[-1]
    total_s = sum(_span_s(line, at) for line in held)
    state.durations.observe(
        last.bundle_id, stage, gained * stage.budget_steps, total_s, among.get(last.bundle_id, 1)
    )  # fmt: skip
    for line in held:
        # More than it was given is for `_learn_excess`, or was not measured well: see `state.demands.complete`.
        devices, peak = len(line.device_ids), min(line.peak_memory_bytes, line.memory_bytes or line.peak_memory_bytes)
        study = state.studies.get(line.study_id)
        on_cpu = study is None or study.device_kind is DeviceKind.CPU
        if not line.stack_id:  # what a member takes says nothing of a run alone
            state.memory.observe(line.bundle_id, stage, devices, peak, peak * devices if on_cpu else 0)
        state.utilisation.observe(line.bundle_id, stage, line.utilisation)
    record = state.stages.get(stage.key)
    if record is not None and record.state is not StageState.COMPLETED:
        _learn_excess(state, record, held, on_cpu)
    if last.closed_at is not None:
        for history in (state.durations, state.memory, state.utilisation):
            history.settle(last.bundle_id)
    return gained


def _learn_excess(state: SchedulerState, record: StageRecord, held: Sequence[Allocation], on_cpu: bool) -> None:
    """A closed line that shows more than was given was ended for it: the stage was raised, and its likes ask for as
    much as it does. What was taken of the host beside a GPU no line says.
    """
    over = [a for a in held if a.closed_at is not None and 0 < a.memory_bytes < a.peak_memory_bytes]
    if not over:
        return
    enough = max(raised_bytes(line.peak_memory_bytes, line.memory_bytes) for line in over)
    raised = with_more(record.demand, enough, on_host_too=on_cpu)
    state.memory.exceeded(record.stage, record.demand.devices, raised)
    # The last one of a series failed it; what was retried then began to count anew.
    record.raises += len(over) % (state.max_memory_raises + 1)
    state.queue.ask(record, raised)


def _runs_of(lines: Iterable[Allocation]) -> dict[tuple[str, str], list[Allocation]]:
    """The lines that a study held for one stage, oldest first."""
    runs: dict[tuple[str, str], list[Allocation]] = {}
    for line in lines:
        runs.setdefault((line.study_id, line.stage_key), []).append(line)
    return runs


def _span_s(line: Allocation, at: float) -> float:
    return max(0.0, (at if line.closed_at is None else line.closed_at) - line.opened_at)


def _warm(stage: Stage) -> float:
    """The part of a stage that it starts with."""
    return min(1.0, stage.warm_step / stage.budget_steps)


def _done_fractions(state: SchedulerState) -> dict[tuple[str, str], float]:
    """By study and stage key, the fraction of the stage that the study's trials have seen done (0 to 1)."""
    done: dict[tuple[str, str], float] = {}
    for trial in state.trials.values():
        for position, stage in enumerate(trial.variant.stages[: trial.stage_index + 1]):
            run = trial.study_id, stage.key
            done[run] = max(done.get(run, 0.0), 1.0 if position < trial.stage_index else trial.progress)
    return done
