"""The event machine: `handle(event) -> instructions`. Pure: no I/O and no clock of its own.

What it guarantees, and `validate` checks: no device holds more than one whole share or its memory; a stage key runs in
at most one bundle; every running bundle has exactly one open line in the ledger of device-seconds; a trial that isn't
over waits for, or runs, exactly its current stage; the closed ledger equals what the trials were charged.

Words: trials *wait* for a stage; the first of them is its *leader* and is `running` while the stage runs, the others
share the run and stay `queued`; when the leader leaves, the next one leads. A stage nobody waits for is not started;
one that is running is stopped when its last waiter leaves. Events of bundles that are over are ignored, so late and
duplicated events are harmless.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.events import (
    BundleStarted,
    BundleStopped,
    EndRequested,
    Event,
    Instruction,
    Launch,
    NodeJoined,
    NodeLost,
    PlacementsDecided,
    RecordAllocation,
    RecordStage,
    RecordStudy,
    RecordTrial,
    StageCompleted,
    StageRaised,
    StageReported,
    Stop,
    StudySubmitted,
    TrackMetrics,
    WorkerLost,
)
from orchestrator.schema import (
    Allocation,
    Demand,
    Device,
    FreeDevice,
    Outcome,
    Placement,
    Request,
    Snapshot,
    Stage,
    StageState,
    Study,
    Trial,
    TrialState,
)

_EPSILON = 1e-6


@dataclass(slots=True)
class _StageRecord:
    stage: Stage
    demand: Demand
    queued_at: float
    state: StageState = StageState.ABSENT
    outcome: Outcome = field(default_factory=Outcome)
    waiters: list[str] = field(default_factory=list)
    lost: int = 0


@dataclass(slots=True)
class Bundle:
    """A launched program and what is known of it. `progress` is the fraction of its stage's budget."""

    launch: Launch
    allocation: Allocation
    progress: float = 0.0
    started: bool = False
    stopping: bool = False


class SchedulerState:
    """Studies, trials, stages, devices and bundles, changed by `handle` alone.

    max_attempts: how often a stage may be lost with its worker before its trials fail.
    """

    def __init__(self, *, max_attempts: int) -> None:
        self.max_attempts = max_attempts
        self.studies: dict[str, Study] = {}
        self.trials: dict[str, Trial] = {}
        self.devices: dict[str, Device] = {}
        self.bundles: dict[str, Bundle] = {}
        self.closed: list[Allocation] = []
        self.latest_metrics: dict[str, Mapping[str, float]] = {}
        self._stages: dict[str, _StageRecord] = {}
        self._ending: dict[str, tuple[TrialState, str]] = {}

    # --- events ------------------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Instruction]:
        """Change the state by one event and say what to record, track, launch and stop, in that order of importance."""
        match event:
            case StudySubmitted():
                return self._submit(event)
            case NodeJoined():
                self.devices.update((device.device_id, device) for device in event.devices)
                return []
            case NodeLost():
                return self._lose_node(event)
            case PlacementsDecided():
                return self._place(event)
            case EndRequested():
                return self._end(event)
            case _:
                bundle = self.bundles.get(event.bundle_id)
                if bundle is None:
                    return []
        match event:
            case BundleStarted():
                bundle.started = True
                return []
            case StageReported():
                return self._report(bundle, event)
            case StageCompleted():
                return self._complete(bundle, event)
            case StageRaised():
                return self._fail(bundle, event.at, event.error)
            case WorkerLost():
                return self._lose_worker(bundle, event.at, event.reason)
            case BundleStopped():
                return self._stopped(bundle, event)

    def _submit(self, event: StudySubmitted) -> list[Instruction]:
        self.studies[event.study.study_id] = event.study
        instructions: list[Instruction] = [RecordStudy(study=event.study)]
        for trial in event.trials:
            for stage in trial.variant.stages:
                record = self._stages.setdefault(
                    stage.key, _StageRecord(stage=stage, demand=event.demands[stage.key], queued_at=event.at)
                )
                if stage.key in event.available_stages and record.state is StageState.ABSENT:
                    record.state, record.outcome = StageState.COMPLETED, event.available_stages[stage.key]
            self.trials[trial.trial_id] = trial
            if not trial.state.terminal:
                instructions += self._wait_for_next_stage(trial.trial_id, event.at)
        self.closed += event.ledger
        return instructions

    def _wait_for_next_stage(self, trial_id: str, at: float) -> list[Instruction]:
        """Put a trial before its current stage, walking past stages whose outputs are there. Records the trial."""
        trial = replace(self.trials[trial_id], state=TrialState.QUEUED, progress=0.0)
        while trial.stage_index < len(trial.variant.stages):
            record = self._stages[trial.variant.stages[trial.stage_index].key]
            if record.state is not StageState.COMPLETED:
                record.waiters.append(trial_id)
                if record.state is StageState.ABSENT and len(record.waiters) == 1:
                    record.queued_at = at
                break
            trial = _past_stage(trial, record, reused=True)
        if trial.stage_index == len(trial.variant.stages):
            trial = replace(trial, state=TrialState.COMPLETED, ended_at=at)
        return [self._set(trial)]

    def _place(self, event: PlacementsDecided) -> list[Instruction]:
        records: list[Instruction] = []
        launches: list[Instruction] = []
        for placement, bundle_id in zip(event.placements, event.bundle_ids, strict=True):
            record = self._stages[placement.stage_key]
            if record.state is not StageState.ABSENT or not record.waiters:
                continue
            record.state = StageState.RUNNING
            leader = self.trials[record.waiters[0]]
            launch = Launch(
                bundle_id=bundle_id,
                study_id=leader.study_id,
                stage=record.stage,
                trial_ids=tuple(record.waiters),
                placement=placement,
                devices=tuple(self.devices[device_id] for device_id in placement.device_ids),
                attempt=record.lost,
            )
            allocation = Allocation(
                bundle_id=bundle_id,
                study_id=leader.study_id,
                stage_key=record.stage.key,
                trial_ids=launch.trial_ids,
                device_ids=placement.device_ids,
                share=placement.share,
                opened_at=event.at,
            )
            self.bundles[bundle_id] = Bundle(launch=launch, allocation=allocation)
            records.append(RecordStage(stage=record.stage, state=record.state, outcome=record.outcome))
            records.append(self._lead(leader.trial_id, event.at))
            records.append(RecordAllocation(allocation=allocation))
            launches.append(launch)
        return records + launches

    def _report(self, bundle: Bundle, event: StageReported) -> list[Instruction]:
        bundle.progress = max(bundle.progress, min(1.0, event.progress))
        record = self._stages[bundle.launch.stage.key]
        if not record.waiters:
            return []
        leader = replace(self.trials[record.waiters[0]], progress=bundle.progress)
        self.latest_metrics[leader.trial_id] = {**self.latest_metrics.get(leader.trial_id, {}), **event.metrics}
        # A stage that is not the variant's last has a step axis of its own, so its series get its name.
        final = leader.variant.stages[-1].key == record.stage.key
        metrics = event.metrics if final else {f"{record.stage.name}/{k}": v for k, v in event.metrics.items()}
        return [
            self._set(leader, track=False),
            TrackMetrics(trial_id=leader.trial_id, step=event.step, metrics=metrics, at=event.at),
        ]

    def _complete(self, bundle: Bundle, event: StageCompleted) -> list[Instruction]:
        record = self._stages[bundle.launch.stage.key]
        instructions = self._close(bundle, event.at, busy_s=event.outcome.busy_s)
        record.state, record.outcome = StageState.COMPLETED, event.outcome
        instructions.append(RecordStage(stage=record.stage, state=record.state, outcome=record.outcome))
        waiters, record.waiters = record.waiters, []
        for position, trial_id in enumerate(waiters):
            trial = _past_stage(self.trials[trial_id], record, reused=position > 0)
            self.trials[trial_id] = trial
            # A trial that was told to end while its stage finished has its answer all the same.
            if trial.stage_index < len(trial.variant.stages) and trial_id in self._ending:
                instructions.append(self._finish_ending(trial_id, event.at))
            else:
                self._ending.pop(trial_id, None)
                instructions += self._wait_for_next_stage(trial_id, event.at)
        return instructions

    def _fail(self, bundle: Bundle, at: float, error: str) -> list[Instruction]:
        record = self._stages[bundle.launch.stage.key]
        instructions = self._close(bundle, at)
        record.state = StageState.FAILED
        instructions.append(RecordStage(stage=record.stage, state=record.state, outcome=record.outcome))
        for trial_id in record.waiters:
            self._ending.pop(trial_id, None)
            trial = replace(self.trials[trial_id], state=TrialState.FAILED, ended_at=at, error=error)
            instructions.append(self._set(trial))
        record.waiters = []
        # A later submission may try again: the failure may have been the machine's.
        record.state, record.lost = StageState.ABSENT, 0
        return instructions

    def _lose_worker(self, bundle: Bundle, at: float, reason: str) -> list[Instruction]:
        record = self._stages[bundle.launch.stage.key]
        record.lost += 1
        if record.lost >= self.max_attempts:
            times = f"lost {record.lost} times, last: {reason} (cluster.max_attempts={self.max_attempts})"
            return self._fail(bundle, at, times)
        return self._close(bundle, at) + self._requeue(record, at)

    def _stopped(self, bundle: Bundle, event: BundleStopped) -> list[Instruction]:
        record = self._stages[bundle.launch.stage.key]
        return self._close(bundle, event.at, busy_s=event.busy_s) + self._requeue(record, event.at)

    def _requeue(self, record: _StageRecord, at: float) -> list[Instruction]:
        """The stage has no bundle any more: end those who were told to, and let the others wait again."""
        record.state, record.queued_at = StageState.ABSENT, at
        instructions: list[Instruction] = [RecordStage(stage=record.stage, state=record.state, outcome=record.outcome)]
        waiters, record.waiters = record.waiters, []
        for trial_id in waiters:
            if trial_id in self._ending:
                instructions.append(self._finish_ending(trial_id, at))
            else:
                record.waiters.append(trial_id)
                trial = self.trials[trial_id]
                if trial.state is TrialState.RUNNING:
                    instructions.append(self._set(replace(trial, state=TrialState.QUEUED)))
        return instructions

    def _lose_node(self, event: NodeLost) -> list[Instruction]:
        gone = {d.device_id for d in self.devices.values() if d.node_id == event.node_id}
        instructions: list[Instruction] = []
        for bundle in list(self.bundles.values()):
            if gone & set(bundle.launch.placement.device_ids):
                instructions += self._lose_worker(bundle, event.at, event.reason)
        for device_id in gone:
            del self.devices[device_id]
        return instructions

    def _end(self, event: EndRequested) -> list[Instruction]:
        instructions: list[Instruction] = []
        for trial_id in event.trial_ids:
            trial = self.trials.get(trial_id)
            if trial is None or trial.state.terminal or trial_id in self._ending:
                continue
            self._ending[trial_id] = (event.into, event.reason)
            record = self._stages[trial.variant.stages[trial.stage_index].key]
            if record.state is StageState.RUNNING and record.waiters == [trial_id]:
                bundle = next(b for b in self.bundles.values() if b.launch.stage.key == record.stage.key)
                bundle.stopping = True
                instructions.append(Stop(bundle_id=bundle.launch.bundle_id, reason=event.reason))
                continue
            record.waiters.remove(trial_id)
            instructions.append(self._finish_ending(trial_id, event.at))
            if trial.state is TrialState.RUNNING:
                instructions.append(self._lead(record.waiters[0], event.at))
        return instructions

    # --- parts of events ---------------------------------------------------------------------------------------------

    def _lead(self, trial_id: str, at: float) -> Instruction:
        trial = self.trials[trial_id]
        started_at = at if trial.started_at is None else trial.started_at
        return self._set(replace(trial, state=TrialState.RUNNING, started_at=started_at, attempt=trial.attempt + 1))

    def _close(self, bundle: Bundle, at: float, busy_s: float = 0.0) -> list[Instruction]:
        """Close the ledger's line and charge it, in equal parts, to the trials that waited for the stage."""
        del self.bundles[bundle.launch.bundle_id]
        waiters = tuple(self._stages[bundle.launch.stage.key].waiters)
        allocation = replace(bundle.allocation, closed_at=at, busy_s=busy_s, trial_ids=waiters)
        self.closed.append(allocation)
        part = allocation.device_seconds(at) / len(waiters)
        for trial_id in waiters:
            trial = self.trials[trial_id]
            self.trials[trial_id] = replace(trial, gpu_seconds=trial.gpu_seconds + part)
        return [RecordAllocation(allocation=allocation)]

    def _finish_ending(self, trial_id: str, at: float) -> Instruction:
        into, reason = self._ending.pop(trial_id)
        return self._set(replace(self.trials[trial_id], state=into, ended_at=at, error=reason))

    def _set(self, trial: Trial, *, track: bool = True) -> Instruction:
        self.trials[trial.trial_id] = trial
        return RecordTrial(trial=trial, track=track)

    # --- questions ---------------------------------------------------------------------------------------------------

    def snapshot(self, at: float) -> Snapshot:
        """What ordering and packing policies look at: devices by node and index, the queue by arrival."""
        used: dict[str, list[Placement]] = {}
        for bundle in self.bundles.values():
            for device_id in bundle.launch.placement.device_ids:
                used.setdefault(device_id, []).append(bundle.launch.placement)
        devices = tuple(
            FreeDevice(
                device=device,
                free_share=1.0 - sum(p.share for p in used.get(device.device_id, ())),
                free_memory_bytes=device.memory_bytes - sum(p.memory_bytes for p in used.get(device.device_id, ())),
                residents=len(used.get(device.device_id, ())),
            )
            for device in sorted(self.devices.values(), key=lambda d: (d.node_id, d.index))
        )
        queue = sorted(
            (r for r in self._stages.values() if r.state is StageState.ABSENT and r.waiters),
            key=lambda r: (r.queued_at, self.trials[r.waiters[0]].number),
        )
        return Snapshot(
            at=at,
            devices=devices,
            residents=tuple(bundle.launch.placement for bundle in self.bundles.values()),
            queue=tuple(
                Request(
                    stage_key=r.stage.key,
                    study_id=self.trials[r.waiters[0]].study_id,
                    trial_ids=tuple(r.waiters),
                    demand=r.demand,
                    queued_at=r.queued_at,
                )
                for r in queue
            ),
        )

    def study_trials(self, study_id: str) -> list[Trial]:
        """The study's trials by number."""
        return sorted((t for t in self.trials.values() if t.study_id == study_id), key=lambda t: t.number)

    def allocations(self, study_id: str) -> list[Allocation]:
        """The study's lines of the ledger, closed ones first."""
        still_open = (bundle.allocation for bundle in self.bundles.values())
        return [a for a in [*self.closed, *still_open] if a.study_id == study_id]

    def finished(self, study_id: str) -> bool:
        """Whether every trial of the study is over."""
        return all(t.state.terminal for t in self.trials.values() if t.study_id == study_id)

    def pending_reason(self, trial_id: str) -> str:
        """What a queued trial waits for, in words; empty for any other."""
        trial = self.trials[trial_id]
        if trial.state is not TrialState.QUEUED:
            return ""
        record = self._stages[trial.variant.stages[trial.stage_index].key]
        leader = self.trials[record.waiters[0]]
        if record.state is StageState.RUNNING:
            return f"stage {record.stage.name}, which trial {leader.number} runs for all that share it"
        wanted, share = record.demand.devices, record.demand.share
        return f"{wanted} device(s) with share {share:g} free; {len(self.bundles)} bundle(s) sit on {len(self.devices)}"

    def validate(self) -> None:
        """Raise AssertionError if an invariant of the module's docstring does not hold."""
        for free in self.snapshot(at=0.0).devices:
            assert free.free_share >= -_EPSILON, f"{free.device.device_id} holds more than its share"
            assert free.free_memory_bytes >= 0, f"{free.device.device_id} holds more than its memory"
        running = [bundle.launch.stage.key for bundle in self.bundles.values()]
        assert len(running) == len(set(running)), "a stage runs in two bundles"
        for key, record in self._stages.items():
            assert (record.state is StageState.RUNNING) == (key in running), f"stage {record.stage.name} and its bundle"
            assert record.state is StageState.RUNNING or record.state is StageState.ABSENT or not record.waiters
        assert all(b.allocation.closed_at is None for b in self.bundles.values()), "a bundle's ledger line is closed"
        self._validate_trials(self._stages.values())
        held = sum(a.device_seconds(0.0) for a in self.closed)
        charged = sum(t.gpu_seconds for t in self.trials.values())
        assert abs(held - charged) <= _EPSILON * max(1.0, held), f"ledger {held} s, charged {charged} s"

    def _validate_trials(self, records: Iterable[_StageRecord]) -> None:
        waits = [(trial_id, record) for record in records for trial_id in record.waiters]
        by_trial = dict(waits)
        assert len(by_trial) == len(waits), "a trial waits for two stages"
        for trial in self.trials.values():
            if trial.state.terminal:
                assert trial.trial_id not in by_trial, f"trial {trial.number} is over and waits"
                assert trial.trial_id not in self._ending
                continue
            record = by_trial[trial.trial_id]
            assert record.stage.key == trial.variant.stages[trial.stage_index].key, "a trial waits for another stage"
            leads = record.state is StageState.RUNNING and record.waiters[0] == trial.trial_id
            assert (trial.state is TrialState.RUNNING) == leads, (
                f"trial {trial.number} is {trial.state}, leads: {leads}"
            )


def _past_stage(trial: Trial, record: _StageRecord, *, reused: bool) -> Trial:
    """The trial behind a completed stage. Only the last stage's metrics are the trial's: what a warm-up reached is
    not what the variant reached."""
    last = trial.stage_index + 1 == len(trial.variant.stages)
    reused_stages = (*trial.reused_stages, record.stage.key) if reused else trial.reused_stages
    return replace(
        trial,
        stage_index=trial.stage_index + 1,
        progress=0.0,
        metrics=dict(record.outcome.metrics) if last else trial.metrics,
        reused_stages=reused_stages,
    )
