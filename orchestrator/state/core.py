"""The data of the event machine, and the steps that its events are made of."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from orchestrator.durations import Durations
from orchestrator.events import (
    Instruction,
    Launch,
    RecordAllocation,
    RecordDevices,
    RecordStage,
    RecordStudy,
    RecordTrial,
    Stop,
)
from orchestrator.schema import Allocation, StageState, Study, Tenant, Trial, TrialState
from orchestrator.sharing.changes import held_by
from orchestrator.sharing.usage import DecayedUsage
from orchestrator.state.records import Bundle, StageRecord, past_stage
from orchestrator.state.room import DeviceRoom
from orchestrator.state.snapshots import Queue, request_of


class MachineCore:
    """The data of the event machine, and the steps that its events are made of. See `machine.SchedulerState`.

    max_attempts: how often a stage may be lost with its worker before its trials fail. tenants: those that have a claim
    or a limit; others count as tenants of weight 1 without either. half_life_s: of what tenants have used.
    whole_devices: the packing gives no shares, so whatever is asked for holds its devices whole.
    """

    def __init__(
        self,
        *,
        max_attempts: int,
        tenants: Mapping[str, Tenant] | None = None,
        half_life_s: float = 86_400.0,
        whole_devices: bool = False,
    ) -> None:
        self.max_attempts = max_attempts
        self.whole_devices = whole_devices
        self.tenants = dict(tenants or {})
        self.studies: dict[str, Study] = {}
        self.trials: dict[str, Trial] = {}
        self.bundles: dict[str, Bundle] = {}
        self.stages: dict[str, StageRecord] = {}
        self.closed: list[Allocation] = []
        self.room = DeviceRoom()
        self.queue = Queue()
        self.durations = Durations()
        self.usage = DecayedUsage(half_life_s)
        self.leaving: dict[str, tuple[TrialState, str]] = {}
        self.counts: dict[str, Counter[TrialState]] = {}
        self.study_trial_ids: dict[str, list[str]] = {}

    def run(self, record: StageRecord, launch: Launch, allocation: Allocation) -> None:
        """The stage runs: it leaves the queue, and its bundle sits on its devices."""
        request = request_of(record, self.trials, self.studies, self.durations)
        self.queue.remove(record)
        record.state, record.bundle_id = StageState.RUNNING, launch.bundle_id
        self.bundles[launch.bundle_id] = Bundle(
            launch=launch, allocation=allocation, request=request, saved_at=allocation.opened_at
        )
        self.room.take(launch.bundle_id, launch.placement)
        held = held_by(allocation, record.demand)
        self.usage.open(launch.bundle_id, request.tenant, held, allocation.opened_at)

    def observe(self, bundle: Bundle, record: StageRecord, at: float) -> None:
        """Learn from how far the bundle has come how long its stage takes."""
        steps = (bundle.progress - record.progress) * record.stage.budget_steps
        self.durations.observe(bundle.launch.bundle_id, record.stage, steps, at - bundle.allocation.opened_at)

    def wait(self, record: StageRecord, trial_id: str, at: float) -> None:
        """The trial waits for the stage."""
        if record.state is StageState.ABSENT and not record.waiters:
            queued_at = self.trials[trial_id].queued_at
            record.queued_at = at if queued_at is None else queued_at
        record.waiters.append(trial_id)
        if record.state is StageState.ABSENT:
            self.queue.add(record)

    def leave(self, record: StageRecord, trial_id: str) -> None:
        """The trial waits for the stage no more."""
        record.waiters.remove(trial_id)
        if record.state is StageState.ABSENT:
            self.queue.add(record) if record.waiters else self.queue.remove(record)

    def stop(self, bundle: Bundle, reason: str) -> Iterable[Instruction]:
        """Ask the bundle, once, to leave at its next step boundary."""
        if bundle.stopping:
            return ()
        bundle.stopping = True
        return (Stop(bundle_id=bundle.launch.bundle_id, reason=reason),)

    def lead(self, trial_id: str, at: float) -> Instruction:
        """The trial runs, in its own name and that of those who wait with it."""
        trial = self.trials[trial_id]
        started_at = at if trial.started_at is None else trial.started_at
        running = replace(trial, state=TrialState.RUNNING, started_at=started_at, attempt=trial.attempt + 1)
        return self.set(running, at, why="started")

    def close(self, bundle: Bundle, at: float, busy_s: float = 0.0) -> list[Instruction]:
        """Close the ledger's line and charge it, in equal parts, to the trials that waited for the stage."""
        bundle_id = bundle.launch.bundle_id
        del self.bundles[bundle_id]
        self.room.give_back(bundle_id, bundle.launch.placement)
        self.usage.close(bundle_id, at)
        waiters = tuple(self.stages[bundle.launch.stage.key].waiters)
        allocation = replace(bundle.allocation, closed_at=at, busy_s=busy_s, trial_ids=waiters)
        self.closed.append(allocation)
        part = allocation.device_seconds(at) / len(waiters)
        instructions: list[Instruction] = [RecordAllocation(allocation=allocation)]
        for trial_id in waiters:
            charged = replace(self.trials[trial_id], gpu_seconds=self.trials[trial_id].gpu_seconds + part)
            instructions.append(self.set(charged, at, track=False))
        return instructions

    def finish_leaving(self, trial_id: str, at: float) -> Instruction:
        """The trial is what it was told to become."""
        into, reason = self.leaving.pop(trial_id)
        ended_at = at if into.terminal else None
        return self.set(replace(self.trials[trial_id], state=into, ended_at=ended_at, error=reason), at, why=reason)

    def put(self, trial: Trial) -> TrialState:
        """Keep the trial; the state it had before."""
        was = self.trials[trial.trial_id].state
        if was is not trial.state:
            counts = self.counts[trial.study_id]
            counts[was] -= 1
            counts[trial.state] += 1
        self.trials[trial.trial_id] = trial
        return was

    def set(
        self, trial: Trial, at: float, *, why: str = "", track: bool = True, new_variant: bool = False
    ) -> Instruction:
        """Keep the trial and record it."""
        was = self.put(trial)
        return RecordTrial(trial=trial, was=was, at=at, track=track, why=why, new_variant=new_variant)

    def record_devices(self) -> Instruction:
        """Which devices there are."""
        return RecordDevices(devices=tuple(free.device for free in self.room.free()))

    def reopen(self, study_id: str, at: float) -> list[Instruction]:
        """A study that had ended goes on."""
        study = self.studies[study_id]
        if study.ended_at is None:
            return []
        self.studies[study_id] = replace(study, ended_at=None)
        return [RecordStudy(study=self.studies[study_id], at=at)]

    def wait_for_next_stage(self, trial_id: str, at: float, why: str = "") -> Instruction:
        """Put a trial before its current stage, walking past stages whose outputs are there. Records the trial."""
        trial = self._with_its_inputs(replace(self.trials[trial_id], state=TrialState.QUEUED, queued_at=at))
        while trial.stage_index < len(trial.variant.stages):
            record = self.stages[trial.variant.stages[trial.stage_index].key]
            if record.state is not StageState.COMPLETED:
                break
            trial = past_stage(trial, record, reused=True)
        if trial.stage_index == len(trial.variant.stages):
            trial = replace(trial, state=TrialState.COMPLETED, ended_at=at)
        instruction = self.set(trial, at, why=why)
        if not trial.state.terminal:
            self.wait(record, trial_id, at)
        return instruction

    def _with_its_inputs(self, trial: Trial) -> Trial:
        """The trial before the first of its stages whose output is gone, if one of those behind it is."""
        behind = trial.variant.stages[: trial.stage_index]
        states = [self.stages[stage.key].state for stage in behind]
        gone = next((i for i, state in enumerate(states) if state is not StageState.COMPLETED), None)
        return trial if gone is None else replace(trial, stage_index=gone, progress=0.0, reused_stages=(), metrics={})

    def lacks_inputs(self, trial: Trial) -> bool:
        """Whether the output of a stage behind the trial is gone."""
        return self._with_its_inputs(trial) is not trial

    def requeue(self, record: StageRecord, at: float, why: str) -> list[Instruction]:
        """The stage has no bundle any more: let those go who were told to, and let the others wait again."""
        record.state, record.bundle_id = StageState.ABSENT, ""
        instructions: list[Instruction] = [RecordStage(stage=record.stage, state=record.state, outcome=record.outcome)]
        waiters, record.waiters = record.waiters, []
        for trial_id in waiters:
            if trial_id in self.leaving:
                instructions.append(self.finish_leaving(trial_id, at))
                continue
            record.waiters.append(trial_id)
            trial = self.trials[trial_id]
            if trial.state is TrialState.RUNNING:
                instructions.append(self.set(replace(trial, state=TrialState.QUEUED), at, why=why))
        if record.waiters:
            self.queue.add(record)
        return instructions
