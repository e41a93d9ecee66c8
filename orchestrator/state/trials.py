"""Studies and trials come and go: what people ask for."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from orchestrator.accounting import came_among
from orchestrator.estimate import stated_memory_bytes
from orchestrator.events import (
    HaltRequested,
    Instruction,
    Launch,
    LedgerRestored,
    QueueRequested,
    RecordStudy,
    RecordTrial,
    StudyForgotten,
    StudySubmitted,
    TrialExtended,
    TrialsAdded,
)
from orchestrator.schema import Allocation, Demand, Fate, Outcome, Placement, StageState, Trial, TrialState
from orchestrator.sharing.changes import held_by
from orchestrator.state.core import MachineCore
from orchestrator.state.neighbours import as_neighbour
from orchestrator.state.records import StageRecord

_WAITING = (TrialState.QUEUED, TrialState.RUNNING)


def submit(core: MachineCore, event: StudySubmitted) -> list[Instruction]:
    """A study and its trials become known; whoever needs no further stage is done at once."""
    study_id = event.study.study_id
    if study_id in core.studies:
        return []
    core.studies[study_id] = event.study
    core.counts[study_id] = Counter()
    core.study_trial_ids[study_id] = []
    core.touch(study_id)
    instructions: list[Instruction] = []
    if not event.announced:
        instructions.append(RecordStudy(study=event.study))
        _run_anew(core, event)
    for trial in event.trials:
        _take_in(core, trial, event.demands, event.available_stages, event.at)
        instructions += _walk(core, trial.trial_id, event.at, announce=not event.announced)
    return instructions


def _run_anew(core: MachineCore, event: StudySubmitted) -> None:
    """A new study runs what it is about itself, even if another one ran the same: only what it says is available is
    taken over."""
    for key in {stage.key for trial in event.trials for stage in trial.variant.stages} - set(event.available_stages):
        record = core.stages.get(key)
        if record is not None and record.state is StageState.COMPLETED:
            record.state, record.progress = StageState.ABSENT, 0.0
            record.lost, record.suspect, record.raises = 0, False, 0


def restore_ledger(core: MachineCore, event: LedgerRestored) -> list[Instruction]:
    """Closed lines count as use, and as the ledger of the studies that are known; open ones are running bundles."""
    among = came_among(event.ledger)
    for allocation in event.ledger:
        if allocation.closed_at is not None:
            tenant = event.tenants.get(allocation.study_id, "default")
            record = core.stages.get(allocation.stage_key)
            held = held_by(allocation, record.demand if record else None)
            core.usage.open(allocation.bundle_id, tenant, held, allocation.opened_at)
            core.usage.close(allocation.bundle_id, allocation.closed_at)
            if allocation.study_id in core.studies:
                core.keep_line(allocation)
        elif allocation.stage_key in core.stages:
            _take_over(core, allocation, among.get(allocation.bundle_id, 1))
    return []


def add_trials(core: MachineCore, event: TrialsAdded) -> list[Instruction]:
    """Clones join their study."""
    instructions: list[Instruction] = []
    for trial in event.trials:
        if trial.trial_id in core.trials or trial.study_id not in core.studies:
            continue
        _take_in(core, trial, event.demands, event.available_stages, event.at)
        why = f"cloned from {trial.cloned_from}" if trial.cloned_from else "added"
        instructions += core.reopen(trial.study_id, event.at)
        instructions.append(RecordTrial(trial=trial, was=None, at=event.at, why=why))
        instructions += _walk(core, trial.trial_id, event.at, announce=False)
    return instructions


def _take_in(
    core: MachineCore, trial: Trial, demands: Mapping[str, Demand], available: Mapping[str, Outcome], at: float
) -> None:
    """Make the trial and its stages known; it waits for its current stage if it is queued or running."""
    _know_stages(core, trial, demands, available, at)
    core.trials[trial.trial_id] = trial
    core.keep_drawn(trial)
    core.counts[trial.study_id][trial.state] += 1
    core.study_trial_ids[trial.study_id].append(trial.trial_id)
    core.touch(trial.study_id)
    if trial.state in _WAITING:
        core.wait(core.stages[trial.variant.stages[trial.stage_index].key], trial.trial_id, at)


def _know_stages(
    core: MachineCore, trial: Trial, demands: Mapping[str, Demand], available: Mapping[str, Outcome], at: float
) -> None:
    for stage in trial.variant.stages:
        record = core.stages.get(stage.key)
        if record is None:
            begun = min(1.0, stage.warm_step / stage.budget_steps)
            demand = as_neighbour(core, demands[stage.key])
            if core.whole_devices:
                demand = replace(demand, share=1.0)
            stated = bool(stated_memory_bytes(core.studies[trial.study_id].config.get("cluster", {})))
            record = StageRecord(stage=stage, demand=demand, queued_at=at, progress=begun, stated=stated)
            core.stages[stage.key] = record
        record.needed += 1
        if stage.key in available and record.state is StageState.ABSENT:
            record.state, record.outcome = StageState.COMPLETED, available[stage.key]


def _need_no_more(core: MachineCore, trial: Trial) -> None:
    """The trial has its stages no more; those that nobody has are forgotten."""
    for stage in trial.variant.stages:
        record = core.stages[stage.key]
        record.needed -= 1
        if not record.needed:
            del core.stages[stage.key]


def _take_over(core: MachineCore, allocation: Allocation, width: int) -> None:
    """An open line of the ledger is a bundle that runs, led by the trial that is running."""
    record = core.stages[allocation.stage_key]
    leader = next(t for t in record.waiters if core.trials[t].state is TrialState.RUNNING)
    record.waiters.remove(leader)
    record.waiters.insert(0, leader)
    known = core.room.devices
    launch = Launch(
        bundle_id=allocation.bundle_id,
        study_id=allocation.study_id,
        stage=record.stage,
        trial_ids=allocation.trial_ids,
        placement=Placement(
            stage_key=allocation.stage_key,
            device_ids=allocation.device_ids,
            share=allocation.share,
            memory_bytes=allocation.memory_bytes,
            cpus=record.demand.cpus,
            host_memory_bytes=record.demand.host_memory_bytes,
        ),
        devices=tuple(known[device_id] for device_id in allocation.device_ids if device_id in known),
        attempt=record.lost,
    )
    core.run(record, launch, allocation, width)
    core.bundles[allocation.bundle_id].progress = core.trials[leader].progress


def _walk(core: MachineCore, trial_id: str, at: float, *, announce: bool) -> list[Instruction]:
    """Past the stages whose outputs are there. Records the trial if it moved, or to `announce` it."""
    trial = core.trials[trial_id]
    record = core.stages[trial.variant.stages[trial.stage_index].key] if trial.state is TrialState.QUEUED else None
    if record is not None and record.state is StageState.COMPLETED:
        core.leave(record, trial_id)
        return [core.wait_for_next_stage(trial_id, at, why="submitted" if announce else "")]
    return [core.set(trial, at, why="submitted")] if announce else []


def extend(core: MachineCore, event: TrialExtended) -> list[Instruction]:
    """The trial goes on, under a variant of its own with another length."""
    trial = core.trials.get(event.trial_id)
    if trial is None or trial.state in _WAITING:
        return []
    last = len(event.variant.stages) - 1
    longer = replace(
        trial,
        variant=event.variant,
        state=TrialState.QUEUED,
        stage_index=min(trial.stage_index, last),
        stopped=_overruled(trial).stopped,
        progress=0.0,
        ended_at=None,
        error="",
        metrics={},
        queued_at=event.at,
        reused_stages=tuple(k for k in trial.reused_stages if k != trial.variant.stages[-1].key),
    )
    _know_stages(core, longer, event.demands, event.available_stages, event.at)
    _need_no_more(core, trial)
    record = core.set(longer, event.at, why="extended", new_variant=True)
    core.wait(core.stages[longer.variant.stages[longer.stage_index].key], trial.trial_id, event.at)
    return [*core.reopen(trial.study_id, event.at), record, *_walk(core, trial.trial_id, event.at, announce=False)]


def queue_again(core: MachineCore, event: QueueRequested) -> list[Instruction]:
    """Paused trials, or with `retry` failed and cancelled ones, wait for devices again."""
    instructions: list[Instruction] = []
    wanted = (TrialState.FAILED, TrialState.CANCELLED) if event.retry else (TrialState.PAUSED,)
    for trial_id in event.trial_ids:
        trial = core.trials.get(trial_id)
        if trial is None:
            continue
        if event.fate is not None:
            instructions += _let_go_on(core, trial, event.fate, event.at)
        elif _is_pausing(core, trial_id) and not event.retry:
            del core.leaving[trial_id]  # the bundle that is stopping leaves a checkpoint, and the trial waits again
            instructions += _overrule(core, trial, event.at)
        elif trial.state in wanted:
            core.trials[trial_id] = replace(_overruled(trial), error="", ended_at=None)
            why = "retried" if event.retry else "resumed"
            instructions += core.reopen(trial.study_id, event.at)
            instructions.append(core.wait_for_next_stage(trial_id, event.at, why=why))
    return instructions


def _let_go_on(core: MachineCore, trial: Trial, fate: Fate, at: float) -> list[Instruction]:
    """A stopping policy takes its verdict back, or has a trial finished that it stopped. One that is being finished, or
    has been, and whose verdict is taken back, was not stopped: it stays where it is."""
    if trial.stopped is None:
        return []
    if trial.stopped.fate is Fate.FINISHING and fate is Fate.PROMOTED:
        return [core.set(replace(trial, stopped=replace(trial.stopped, fate=fate, drawn=False)), at, track=False)]
    if not trial.held:
        return []
    drawn = trial.stopped.drawn and fate is not Fate.PROMOTED
    core.trials[trial.trial_id] = replace(trial, error="", stopped=replace(trial.stopped, fate=fate, drawn=drawn))
    why = "goes on: the stopping policy took its verdict back" if fate is Fate.PROMOTED else "finished all the same"
    return [core.wait_for_next_stage(trial.trial_id, at, why=why)]


def _overruled(trial: Trial) -> Trial:
    """A person has said what shall become of the trial: no policy stops it any more, or goes on with it."""
    if trial.stopped is None:
        return trial
    return replace(trial, stopped=replace(trial.stopped, fate=Fate.OVERRULED))


def _overrule(core: MachineCore, trial: Trial, at: float) -> list[Instruction]:
    overruled = _overruled(trial)
    return [] if overruled == trial else [core.set(overruled, at, track=False)]


def _is_pausing(core: MachineCore, trial_id: str) -> bool:
    return trial_id in core.leaving and core.leaving[trial_id][0] is TrialState.PAUSED


def halt(core: MachineCore, event: HaltRequested) -> list[Instruction]:
    """Trials leave: at once if they wait, at the next step boundary if they run."""
    instructions: list[Instruction] = []
    for trial_id in event.trial_ids:
        trial = core.trials.get(trial_id)
        if trial is None or not trial.state.may_become(event.into):
            continue
        by_policy = event.stop is not None or event.into is TrialState.PRUNED
        if by_policy and trial_id in core.leaving:
            continue  # a person has said what shall become of it
        if not by_policy:
            instructions += _overrule(core, trial, event.at)
            trial = core.trials[trial_id]
        if trial.state not in _WAITING:
            instructions += _halt_paused(core, trial, event)
            continue
        if event.stop is not None:
            instructions.append(core.set(replace(trial, stopped=event.stop), event.at, track=False))
        record = core.stages[trial.variant.stages[trial.stage_index].key]
        core.leaving[trial_id] = (event.into, event.reason)
        if record.state is StageState.RUNNING and record.waiters == [trial_id]:
            instructions += core.stop(core.bundles[record.bundle_id], event.reason)
            continue
        core.leave(record, trial_id)
        instructions.append(core.finish_leaving(trial_id, event.at))
        if trial.state is TrialState.RUNNING:
            instructions.append(core.lead(record.waiters[0], event.at))
    return instructions


def _halt_paused(core: MachineCore, trial: Trial, event: HaltRequested) -> list[Instruction]:
    """It can be cancelled, and pruned if it is a policy that holds it."""
    if trial.state is not TrialState.PAUSED or event.into is TrialState.PAUSED:
        return []
    if event.into is TrialState.PRUNED and not trial.held:
        return []
    core.leaving[trial.trial_id] = (event.into, event.reason)
    return [core.finish_leaving(trial.trial_id, event.at)]


def forget(core: MachineCore, event: StudyForgotten) -> list[Instruction]:
    """Drop a study that has ended, with what only it needed. What its tenant has used stays."""
    study = core.studies.get(event.study_id)
    if study is None or study.ended_at is None:
        return []
    own = core.study_trial_ids[study.study_id]
    over = all(core.trials[trial_id].state.terminal for trial_id in own)
    lines = core.ledger.concerning(study.study_id)
    if not over or any(_is_shared_with_open(core, line, study.study_id) for line in lines):
        return []
    for trial_id in own:
        _need_no_more(core, core.trials.pop(trial_id))
    del core.studies[study.study_id], core.counts[study.study_id], core.study_trial_ids[study.study_id]
    core.ledger.forget(study.study_id)
    return []


def _is_shared_with_open(core: MachineCore, line: Allocation, study_id: str) -> bool:
    """Whether a line was charged to the study's trials and to those of another study that is open."""
    charged = {core.trials[trial_id].study_id for trial_id in line.trial_ids if trial_id in core.trials}
    return study_id in charged and any(core.studies[other].ended_at is None for other in charged)
