"""The event machine as the store knows it: what a new leader takes over, and what everybody else looks at."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from orchestrator.estimate import stage_demand
from orchestrator.events import Instruction, LedgerRestored, NodeJoined, StudySubmitted
from orchestrator.ports import Store
from orchestrator.schema import Allocation, Demand, Device, DeviceKind, Outcome, Stage, Study, Trial, TrialState
from orchestrator.state import SchedulerState

OutputsAtHand = Callable[[Collection[str]], Mapping[str, Outcome]]


def demands_of(study: Study, stages: Collection[Stage], kind: DeviceKind) -> dict[str, Demand]:
    """What each stage asks for under the study's own `cluster` config, by stage key."""
    return {stage.key: stage_demand(stage, study.config["cluster"], kind) for stage in stages}


def stages_of_trials(trials: Collection[Trial]) -> list[Stage]:
    """Every different stage of the trials."""
    return list({stage.key: stage for trial in trials for stage in trial.variant.stages}.values())


def restore_devices(state: SchedulerState, store: Store) -> None:
    """The devices that the last leader recorded."""
    by_node: dict[str, list[Device]] = {}
    for device in store.devices():
        by_node.setdefault(device.node_id, []).append(device)
    for node_id, devices in by_node.items():
        state.handle(NodeJoined(at=0.0, node_id=node_id, devices=tuple(devices)))


def restore_study(
    state: SchedulerState, store: Store, study: Study, outputs_at_hand: OutputsAtHand, at: float
) -> list[Instruction]:
    """A study that a leader has announced, as the store has it. Trials whose earlier stages' outputs are gone start
    from the beginning."""
    trials = store.trials(study.study_id)
    prefixes = {stage.key for trial in trials for stage in trial.variant.stages[:-1]}
    at_hand = outputs_at_hand(prefixes)
    event = StudySubmitted(
        at=at,
        study=study,
        trials=tuple(_with_its_inputs(trial, at_hand) for trial in trials),
        demands=demands_of(study, stages_of_trials(trials), study.device_kind or DeviceKind.CPU),
        available_stages=at_hand,
        announced=True,
    )
    return state.handle(event)


def restore_ledger(state: SchedulerState, store: Store, at: float) -> list[Instruction]:
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


def _take_in_ledger(state: SchedulerState, store: Store, ledger: Sequence[Allocation], at: float) -> list[Instruction]:
    _learn_durations(state, ledger, at)
    tenants = {study.study_id: study.tenant for study in store.studies()}
    return state.handle(LedgerRestored(at=at, ledger=tuple(ledger), tenants=tenants))


def _learn_durations(state: SchedulerState, ledger: Sequence[Allocation], at: float) -> None:
    """How long stages took for what they have done, and how far those that wait had come, or those that run when they
    were placed: of all that was done the part that their earlier lines held, since nobody wrote it down."""
    lines: dict[tuple[str, str], list[Allocation]] = {}
    for line in ledger:
        if line.stage_key in state.stages:
            lines.setdefault((line.study_id, line.stage_key), []).append(line)
    done = _done_fractions(state)
    for run, held in lines.items():
        record = state.stages[held[0].stage_key]
        spans_s = [max(0.0, (at if line.closed_at is None else line.closed_at) - line.opened_at) for line in held]
        warm = min(1.0, record.stage.warm_step / record.stage.budget_steps)
        gained = max(0.0, done.get(run, 0.0) - warm)
        total_s = sum(spans_s)
        if gained > 0.0 and total_s > 0.0:
            state.durations.observe(held[-1].bundle_id, record.stage, gained * record.stage.budget_steps, total_s)
            earlier_s = total_s if held[-1].closed_at is not None else total_s - spans_s[-1]
            if record.waiters:
                record.progress = max(record.progress, warm + gained * earlier_s / total_s)


def _done_fractions(state: SchedulerState) -> dict[tuple[str, str], float]:
    """By study and stage key, the fraction of the stage that the study's trials have seen done (0 to 1)."""
    done: dict[tuple[str, str], float] = {}
    for trial in state.trials.values():
        for position, stage in enumerate(trial.variant.stages[: trial.stage_index + 1]):
            run = trial.study_id, stage.key
            done[run] = max(done.get(run, 0.0), 1.0 if position < trial.stage_index else trial.progress)
    return done
