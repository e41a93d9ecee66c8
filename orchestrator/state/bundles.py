"""Bundles come and go: what happens on devices."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from orchestrator.events import (
    BundleStopped,
    Instruction,
    Launch,
    LeaderLost,
    MemoryExceeded,
    NodeLost,
    PlacementsDecided,
    PreemptionDecided,
    RecordAllocation,
    RecordPoint,
    RecordStage,
    StageCompleted,
    StageMeasured,
    StageReported,
    StageSaved,
)
from orchestrator.schema import Allocation, StageState, Trial, TrialState
from orchestrator.state import demands, neighbours
from orchestrator.state.core import MachineCore
from orchestrator.state.evaluations import judged, with_evaluation, without_folds
from orchestrator.state.memory_raises import raise_memory, refusal
from orchestrator.state.records import Bundle, past_stage


def place(core: MachineCore, event: PlacementsDecided) -> list[Instruction]:
    """Placements become bundles: recorded, led by the first that waits, and launched."""
    records: list[Instruction] = []
    launches: list[Instruction] = []
    coming = Counter(placement.stack_id for placement in event.placements)
    there = {stack.stack_id: len(stack.members) for stack in core.stacks.all()}
    for placement, bundle_id in zip(event.placements, event.bundle_ids, strict=True):
        record = core.stages[placement.stage_key]
        if record.state is not StageState.ABSENT or not record.waiters:
            continue
        leader = core.trials[record.waiters[0]]
        launch = Launch(
            bundle_id=bundle_id,
            study_id=leader.study_id,
            stage=record.stage,
            trial_ids=tuple(record.waiters),
            placement=placement,
            devices=tuple(core.room.devices[device_id] for device_id in placement.device_ids),
            attempt=record.lost,
        )
        width = coming[placement.stack_id] + there.get(placement.stack_id, 0) if placement.stack_id else 1
        allocation = Allocation(
            bundle_id=bundle_id,
            study_id=leader.study_id,
            stage_key=record.stage.key,
            trial_ids=launch.trial_ids,
            device_ids=placement.device_ids,
            share=placement.share,
            opened_at=event.at,
            memory_bytes=placement.memory_bytes + placement.away_bytes,
            stack_id=placement.stack_id,
            **demands.estimates(core, record, width),
        )
        core.run(record, launch, allocation, width)
        records.append(RecordStage(stage=record.stage, state=record.state, outcome=record.outcome))
        records.append(core.lead(leader.trial_id, event.at))
        records.append(RecordAllocation(allocation=allocation))
        launches.append(launch)
    return records + launches


def report(core: MachineCore, bundle: Bundle, event: StageReported) -> list[Instruction]:
    """Progress and series of one step."""
    record = core.stages[bundle.launch.stage.key]
    bundle.progress = max(bundle.progress, min(1.0, event.progress))
    core.observe(bundle, record, event.at)
    neighbours.report(core, bundle, event.progress, event.at)
    pace(core, bundle, event)
    if not record.waiters:
        return []
    leader = core.trials[record.waiters[0]]
    # A stage that is not the variant's last, nor on its trunk, has a step axis of its own: its series get its name.
    final = leader.variant.is_about(record.stage)
    series = without_folds(event)
    named = series if final else {f"{record.stage.name}/{k}": v for k, v in series.items()}
    if final and judged(core.studies[leader.study_id]):
        leader = replace(leader, evaluations=with_evaluation(leader, bundle, len(record.waiters), event))
    instructions = _show(core, replace(leader, progress=bundle.progress), named, event)
    # A trunk is a part of the way of each that waits for it, and the whole way of some.
    for trial_id in record.waiters[1:] if record.stage.trunk and final else ():
        instructions += _show(core, core.trials[trial_id], series, event)
    return instructions


def _show(core: MachineCore, trial: Trial, named: Mapping[str, float], event: StageReported) -> list[Instruction]:
    """Points of a trial's series. A run that was lost after its last checkpoint goes over the same steps again: they
    count, and show, once."""
    new = {k: v for k, v in named.items() if event.step > trial.latest.get(k, (-1.0,))[0]}
    latest = {**trial.latest, **{k: (float(event.step), v) for k, v in new.items()}}
    instructions: list[Instruction] = [core.set(replace(trial, latest=latest), event.at, track=False)]
    if new:
        point = RecordPoint(study_id=trial.study_id, trial_id=trial.trial_id, step=event.step, metrics=new, at=event.at)
        instructions.append(point)
    return instructions


def pace(core: MachineCore, bundle: Bundle, event: StageReported) -> None:
    """How fast stages of one fusion key go on, together in a stack or alone on a device."""
    placement, fusion_key = bundle.launch.placement, bundle.request.fusion_key
    if not fusion_key:
        return
    stack = core.stacks.of(placement)
    since, width = (bundle.allocation.opened_at, 1) if stack is None else (stack.changed_at, len(stack.members))
    if stack is None and not core.room.is_alone(placement):
        bundle.paced_from = None
        return
    if bundle.paced_from is not None and bundle.paced_from[1] >= since:
        step, at = bundle.paced_from
        if event.step == step:  # an evaluation, say: its time counts towards the steps that follow
            return
        core.widths.observe(fusion_key, width, event.step - step, event.at - at)
    bundle.paced_from = event.step, event.at


def saved(core: MachineCore, bundle: Bundle, event: StageSaved) -> list[Instruction]:
    """A checkpoint: what was done up to it is safe."""
    record = core.stages[bundle.launch.stage.key]
    bundle.saved_at = max(bundle.saved_at, event.at)
    bundle.saved_progress = max(bundle.saved_progress, min(1.0, event.step / record.stage.budget_steps))
    bundle.progress = max(bundle.progress, bundle.saved_progress)
    return []


def measured(core: MachineCore, bundle: Bundle, event: StageMeasured) -> list[Instruction]:
    """What the bundle takes is what its ledger line says, and what stages like it are known to take."""
    return demands.measure(core, bundle, event)


def exceeded(core: MachineCore, bundle: Bundle, event: MemoryExceeded) -> list[Instruction]:
    """It took more than it was given: it gets more, as long as there is more and it was not raised too often. Whoever
    leaves anyway leaves."""
    if (stack := core.stacks.of(bundle.launch.placement)) is not None:
        core.widths.exceeded(bundle.request.fusion_key, stack.widest)
        record = core.stages[bundle.launch.stage.key]
        record.progress = max(record.progress, bundle.saved_progress)
        why = f"its stack of {stack.widest} took more memory than it was given: it waits for a narrower one"
        return core.close(bundle, event.at) + core.requeue(record, event.at, why)
    if not event.on_host:
        # On a closed line a peak beyond what was given says that it was ended for it.
        peak = max(bundle.allocation.peak_memory_bytes, event.used_bytes)
        bundle.allocation = replace(bundle.allocation, peak_memory_bytes=peak)
    why_not = refusal(core, bundle, event)
    record = core.stages[bundle.launch.stage.key]
    if why_not and all(trial_id in core.leaving for trial_id in record.waiters):
        record.progress = max(record.progress, bundle.saved_progress)
        return core.close(bundle, event.at) + core.requeue(record, event.at, why_not)
    return fail(core, bundle, event.at, why_not) if why_not else raise_memory(core, bundle, event)


def complete(core: MachineCore, bundle: Bundle, event: StageCompleted) -> list[Instruction]:
    """The stage is done: whoever waited for it goes on."""
    record = core.stages[bundle.launch.stage.key]
    # A stage may end before its budget, by a rule of its own: its pace is by the steps that it took.
    taken = event.outcome.metrics.get("steps", float(record.stage.budget_steps))
    bundle.progress = min(1.0, taken / record.stage.budget_steps)
    core.observe(bundle, record, event.at)
    demands.complete(core, bundle, event.outcome.peak_memory_bytes)
    line = core.close_line(bundle, event.at, event.outcome.busy_s)
    part = line.device_seconds(event.at) / len(line.trial_ids)
    record.state, record.outcome, record.waiters = StageState.COMPLETED, event.outcome, []
    instructions: list[Instruction] = [
        RecordAllocation(allocation=line),
        RecordStage(stage=record.stage, state=record.state, outcome=record.outcome),
    ]
    for position, trial_id in enumerate(line.trial_ids):
        trial = past_stage(core.trials[trial_id], record, event.at, reused=position > 0, gpu_seconds=part)
        if trial.state is TrialState.COMPLETED:
            # A trial that was told to leave while its last stage finished has its answer all the same.
            core.leaving.pop(trial_id, None)
            instructions.append(core.set(trial, event.at))
            continue
        core.put(trial)
        leaves = trial_id in core.leaving
        instructions.append((core.finish_leaving if leaves else core.wait_for_next_stage)(trial_id, event.at))
    return instructions


def fail(core: MachineCore, bundle: Bundle, at: float, error: str) -> list[Instruction]:
    """The stage fails, and with it whoever waited for it."""
    record = core.stages[bundle.launch.stage.key]
    instructions = core.close(bundle, at)
    instructions.append(RecordStage(stage=record.stage, state=StageState.FAILED, outcome=record.outcome))
    for trial_id in record.waiters:
        core.leaving.pop(trial_id, None)
        trial = replace(core.trials[trial_id], state=TrialState.FAILED, ended_at=at, error=error)
        instructions.append(core.set(trial, at, why="failed"))
    # A later submission may try again: the failure may have been the machine's.
    record.waiters, record.state, record.progress = [], StageState.ABSENT, 0.0
    record.lost, record.suspect, record.raises = 0, False, 0
    return instructions


def lose_worker(core: MachineCore, bundle: Bundle, at: float, reason: str, *, blameless: bool) -> list[Instruction]:
    """Another attempt, unless there were too many."""
    record = core.stages[bundle.launch.stage.key]
    record.lost += 1
    record.suspect = record.suspect or not blameless
    if record.lost >= core.max_attempts:
        times = f"lost {record.lost} times, last: {reason} (cluster.max_attempts={core.max_attempts})"
        return fail(core, bundle, at, times)
    record.progress = max(record.progress, bundle.saved_progress)
    return core.close(bundle, at) + core.requeue(record, at, f"its worker was lost: {reason}")


def stopped(core: MachineCore, bundle: Bundle, event: BundleStopped) -> list[Instruction]:
    """The bundle left a checkpoint as it was asked to."""
    record = core.stages[bundle.launch.stage.key]
    record.progress = max(record.progress, bundle.progress)
    leader_id = record.waiters[0]
    if bundle.preempted and leader_id not in core.leaving:
        leader = core.trials[leader_id]
        core.put(replace(leader, preemptions=leader.preemptions + 1))
    why = "made room" if bundle.preempted else f"stopped: {bundle.stop_reason}"
    return core.close(bundle, event.at, busy_s=event.busy_s) + core.requeue(record, event.at, why)


def preempt(core: MachineCore, event: PreemptionDecided) -> list[Instruction]:
    """Ask bundles to make room."""
    instructions: list[Instruction] = []
    for bundle_id in event.bundle_ids:
        bundle = core.bundles.get(bundle_id)
        if bundle is not None and not bundle.stopping:
            bundle.preempted = event.counts
            instructions += core.stop(bundle, event.reason)
    return instructions


def lose_node(core: MachineCore, event: NodeLost) -> list[Instruction]:
    """Its bundles are lost, then its devices."""
    gone = {d.device_id for d in core.room.devices.values() if d.node_id == event.node_id}
    instructions: list[Instruction] = []
    for bundle in list(core.bundles.values()):
        if gone & set(bundle.launch.placement.device_ids):
            instructions += lose_worker(core, bundle, event.at, event.reason, blameless=True)
    core.room.leave(event.node_id)
    core.nodes_changed()
    return instructions


def lose_leader(core: MachineCore, event: LeaderLost) -> list[Instruction]:
    """All bundles and all devices are gone; their lines end when the leader did."""
    instructions: list[Instruction] = []
    for bundle in list(core.bundles.values()):
        record = core.stages[bundle.launch.stage.key]
        at = max(event.at, bundle.allocation.opened_at)
        record.progress = max(record.progress, bundle.saved_progress)
        instructions += core.close(bundle, at) + core.requeue(record, at, event.reason)
    for node_id in core.room.nodes():
        core.room.leave(node_id)
    core.nodes_changed()
    return instructions
