"""The data of the event machine, and the steps that its events are made of."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

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
from orchestrator.fusion import Stacks, Widths, fusion_digest
from orchestrator.history import Durations, MemoryUse, Utilisation
from orchestrator.interference import Interference
from orchestrator.phases import Antiphase
from orchestrator.schema import Allocation, Demand, Request, StageState, Study, Tenant, Trial, TrialState
from orchestrator.sharing.changes import held_by
from orchestrator.sharing.usage import DecayedUsage
from orchestrator.snapshot import Arrivals
from orchestrator.state import neighbours
from orchestrator.state.feasibility import Feasibility
from orchestrator.state.ledger import Ledger
from orchestrator.state.queue import Queue
from orchestrator.state.records import Bundle, StageRecord, past_stage
from orchestrator.state.room import DeviceRoom


class MachineCore:
    """The data of the event machine, and the steps that its events are made of. See `machine.SchedulerState`.

    max_attempts: how often a stage may be lost with its worker before its trials fail. max_memory_raises: how often it
    may be given more memory before they do. tenants: those that have a claim or a limit; others count as tenants of
    weight 1 without either. half_life_s: of what tenants have used. whole_devices: the packing gives no shares, so
    whatever is asked for holds its devices whole. fuses: stages of one fusion key may run in one stack. antiphase:
    those that share a device take turns in what they do.

    `priorities` counts the bundles by the priority of what they run for.
    """

    def __init__(
        self,
        *,
        max_attempts: int,
        tenants: Mapping[str, Tenant] | None = None,
        half_life_s: float = 86_400.0,
        whole_devices: bool = False,
        max_memory_raises: int = 3,
        fuses: bool = False,
        antiphase: bool = False,
    ) -> None:
        self.fuses = fuses
        self.antiphase = Antiphase() if antiphase and not whole_devices else None
        self.max_attempts = max_attempts
        self.max_memory_raises = max_memory_raises
        self.whole_devices = whole_devices
        self.tenants = dict(tenants or {})
        self.studies: dict[str, Study] = {}
        self.trials: dict[str, Trial] = {}
        self.bundles: dict[str, Bundle] = {}
        self.stages: dict[str, StageRecord] = {}
        self.ledger = Ledger()
        self.room = DeviceRoom()
        self.feasibility = Feasibility(self.room)
        self.queue = Queue(self)
        self.durations = Durations()
        self.memory = MemoryUse()
        self.utilisation = Utilisation()
        self.arrivals = Arrivals()
        self.interference = Interference()
        self.stacks = Stacks()
        self.widths = Widths()
        self.usage = DecayedUsage(half_life_s)
        self.leaving: dict[str, tuple[TrialState, str]] = {}
        # Trials that a stopping policy holds and has drawn to be finished, as they came to be.
        self.drawn: dict[str, None] = {}
        self.counts: dict[str, Counter[TrialState]] = {}
        self.study_trial_ids: dict[str, list[str]] = {}
        self.priorities: Counter[int] = Counter()
        self._touched: dict[str, None] = {}
        self._largest = self.room.largest()

    def touch(self, study_id: str) -> None:
        """Something of the study changed."""
        self._touched[study_id] = None

    def take_touched(self) -> tuple[str, ...]:
        """The studies of which something changed since somebody asked, each once, the first that did first."""
        touched = tuple(self._touched)
        self._touched.clear()
        return touched

    def request_of(self, record: StageRecord, trial_ids: Sequence[str] = ()) -> Request:
        """What the stage asks for, in the name of the trial that would lead it: the first of those that wait, or of
        `trial_ids`, if they did."""
        waiters = tuple(trial_ids or record.waiters)
        leader = self.trials[waiters[0]]
        study = self.studies[leader.study_id]
        demand = self._asked(record)
        return Request(
            stage_key=record.stage.key,
            study_id=leader.study_id,
            trial_ids=waiters,
            demand=demand,
            queued_at=record.queued_at,
            tenant=study.tenant,
            priority=study.priority,
            expected_s=self.durations.expected_s(record.stage, 1.0 - record.progress),
            preemptions=leader.preemptions,
            fusion_key="" if _runs_alone(demand) else self._fusion_key(record),
        )

    def _asked(self, record: StageRecord) -> Demand:
        """What the stage's next program asks for: one that parks asks for less than the stage needs."""
        if self.antiphase is None:
            return record.demand
        demand = self.antiphase.parking(record.demand, self.room.common_memory_bytes(record.demand.models))
        if self.antiphase.know(demand):
            neighbours.bar(self)
        return demand

    def _fusion_key(self, record: StageRecord) -> str:
        """Of a stage that may run in a stack. One that was lost with its worker, but not with its node, runs alone: the
        fault may have been its own, and nobody else shall suffer from it again."""
        if not self.fuses or record.suspect or record.demand.devices != 1:
            return ""
        if record.fusion_key is None:
            record.fusion_key = fusion_digest(record.stage)
        return record.fusion_key

    def run(self, record: StageRecord, launch: Launch, allocation: Allocation, width: int = 1) -> None:
        """The stage runs: it leaves the queue, and its bundle sits on its devices. `width`: see `Bundle`."""
        request = self.queue.request(record)
        self.queue.remove(record)
        record.state, record.bundle_id = StageState.RUNNING, launch.bundle_id
        bundle = Bundle(
            launch=launch, allocation=allocation, request=request, saved_at=allocation.opened_at, width=width
        )
        self.bundles[launch.bundle_id] = bundle
        self.ledger.open(bundle)
        self.priorities[request.priority] += 1
        self.room.take(launch.bundle_id, launch.placement, request.demand.kind)
        neighbours.sit(self, bundle, request.demand.kind)
        self.stacks.join(launch.bundle_id, launch.placement, request, allocation.opened_at)
        held = held_by(launch.placement, record.demand)
        self.usage.open(launch.bundle_id, request.tenant, held, allocation.opened_at)

    def observe(self, bundle: Bundle, record: StageRecord, at: float) -> None:
        """Learn from how far the bundle has come how long its stage takes."""
        steps = (bundle.progress - record.progress) * record.stage.budget_steps
        held_s = at - bundle.allocation.opened_at
        self.durations.observe(bundle.launch.bundle_id, record.stage, steps, held_s, bundle.width)

    def correct(self, record: StageRecord) -> None:
        """A stage that doesn't run asks for what its likes were measured to take; not if a person has stated it, not
        for less than it was raised to, and for no more on top of what was seen than the largest device and node have.
        """
        if record.state is StageState.RUNNING or (record.stated and not record.raises):
            return
        was = record.demand
        demand = was if record.stated else self.memory.corrected(record.stage, was)
        if record.raises:
            demand = replace(
                demand,
                memory_bytes=max(was.memory_bytes, demand.memory_bytes),
                host_memory_bytes=max(was.host_memory_bytes, demand.host_memory_bytes),
            )
        elif demand is was:  # nothing like it was ever measured
            return
        self.queue.ask(record, self._within_nodes(record, demand))

    def _within_nodes(self, record: StageRecord, demand: Demand) -> Demand:
        largest = self.room.largest_memory_bytes(demand.models)
        largest_host = demand.max_nodes * self.room.largest_host_memory_bytes()
        peak = self.memory.peak(record.stage, demand.devices)
        seen, seen_host = (0, 0) if peak is None else (peak.memory_bytes, peak.host_memory_bytes)
        return replace(
            demand,
            memory_bytes=min(demand.memory_bytes, max(seen, largest or demand.memory_bytes)),
            host_memory_bytes=min(demand.host_memory_bytes, max(seen_host, largest_host or demand.host_memory_bytes)),
        )

    def nodes_changed(self) -> None:
        """Nodes have come or gone: what waits may ask for more, or for less, of the largest of those that are there."""
        if self.antiphase is not None:  # who parks does so because of what the devices have
            for record in self.queue.records():
                record.request = None
        largest = self.room.largest()
        if largest != self._largest:
            self._largest = largest
            for record in list(self.queue.records()):
                self.correct(record)

    def wait(self, record: StageRecord, trial_id: str, at: float) -> None:
        """The trial waits for the stage."""
        if record.state is StageState.ABSENT and not record.waiters:
            queued_at = self.trials[trial_id].queued_at
            record.queued_at = at if queued_at is None else queued_at
        record.waiters.append(trial_id)
        if record.state is StageState.ABSENT:
            self.correct(record)
            self.queue.add(record)
            if not record.arrived:
                record.arrived = True
                self.arrivals.observe(record.demand)

    def leave(self, record: StageRecord, trial_id: str) -> None:
        """The trial waits for the stage no more."""
        record.waiters.remove(trial_id)
        if record.state is StageState.ABSENT:
            self.queue.add(record) if record.waiters else self.queue.remove(record)

    def stop(self, bundle: Bundle, reason: str) -> Iterable[Instruction]:
        """Ask the bundle, once, to leave at its next step boundary."""
        if bundle.stopping:
            return ()
        bundle.stopping, bundle.stop_reason = True, reason
        return (Stop(bundle_id=bundle.launch.bundle_id, reason=reason),)

    def lead(self, trial_id: str, at: float) -> Instruction:
        """The trial runs, in its own name and that of those who wait with it."""
        trial = self.trials[trial_id]
        started_at = at if trial.started_at is None else trial.started_at
        running = replace(trial, state=TrialState.RUNNING, started_at=started_at, attempt=trial.attempt + 1)
        return self.set(running, at, why="started")

    def close(self, bundle: Bundle, at: float, busy_s: float = 0.0) -> list[Instruction]:
        """Close the ledger's line and charge it, in equal parts, to the trials that waited for the stage."""
        line = self.close_line(bundle, at, busy_s)
        part = line.device_seconds(at) / len(line.trial_ids)
        instructions: list[Instruction] = [RecordAllocation(allocation=line)]
        for trial_id in line.trial_ids:
            trial = self.trials[trial_id]
            of_stage = trial.stage_gpu_seconds + part
            charged = replace(trial, gpu_seconds=trial.gpu_seconds + part, stage_gpu_seconds=of_stage)
            instructions.append(self.set(charged, at, track=False))
        return instructions

    def close_line(self, bundle: Bundle, at: float, busy_s: float) -> Allocation:
        """The bundle is gone. Its line of the ledger, whose device-seconds are still to be charged in equal parts."""
        bundle_id = bundle.launch.bundle_id
        del self.bundles[bundle_id]
        self.ledger.close(bundle)
        self.priorities[bundle.request.priority] -= 1
        if not self.priorities[bundle.request.priority]:
            del self.priorities[bundle.request.priority]
        self.room.give_back(bundle_id)
        self.stacks.leave(bundle_id, bundle.launch.placement, at)
        self.interference.leave(bundle_id)
        self.usage.close(bundle_id, at)
        for history in (self.durations, self.memory, self.utilisation):
            history.settle(bundle_id)
        waiters = tuple(self.stages[bundle.launch.stage.key].waiters)
        allocation = replace(bundle.allocation, closed_at=at, busy_s=busy_s, trial_ids=waiters)
        self.keep_line(allocation)
        return allocation

    def keep_line(self, line: Allocation) -> None:
        """A closed line of the ledger, for the studies that it concerns and that are known."""
        concerned = {self.trials[t].study_id: None for t in line.trial_ids if t in self.trials} | {line.study_id: None}
        self.ledger.add(line, (study_id for study_id in concerned if study_id in self.studies))

    def restore_lines(self, study_id: str, lines: Iterable[Allocation]) -> None:
        """Closed lines of a study that has come back, and those of other studies that its trials were charged for."""
        own, known = set(self.study_trial_ids[study_id]), {a.bundle_id for a in self.ledger.concerning(study_id)}
        shared = [line for line in self.ledger if own.intersection(line.trial_ids)]
        missing = {a.bundle_id: a for a in (*lines, *shared) if a.closed_at is not None and a.bundle_id not in known}
        for line in missing.values():
            self.ledger.add(line, (study_id,))

    def finish_leaving(self, trial_id: str, at: float) -> Instruction:
        """The trial is what it was told to become."""
        into, reason = self.leaving.pop(trial_id)
        ended_at = at if into.terminal else None
        return self.set(replace(self.trials[trial_id], state=into, ended_at=ended_at, error=reason), at, why=reason)

    def put(self, trial: Trial) -> TrialState:
        """Keep the trial; the state it had before."""
        was = self.trials[trial.trial_id].state
        self._touched[trial.study_id] = None
        if was is not trial.state:
            counts = self.counts[trial.study_id]
            counts[was] -= 1
            counts[trial.state] += 1
        self.trials[trial.trial_id] = trial
        self.keep_drawn(trial)
        return was

    def keep_drawn(self, trial: Trial) -> None:
        """Whether a trial as it is now is held, and drawn to be finished."""
        if trial.held and trial.stopped is not None and trial.stopped.drawn:
            self.drawn.setdefault(trial.trial_id)
        else:
            self.drawn.pop(trial.trial_id, None)

    def set(
        self, trial: Trial, at: float, *, why: str = "", track: bool = True, new_variant: bool = False
    ) -> Instruction:
        """Keep the trial and record it."""
        was = self.put(trial)
        return RecordTrial(trial=trial, was=was, at=at, track=track, why=why, new_variant=new_variant)

    def record_devices(self) -> RecordDevices:
        """Which devices there are. Events that change it don't say so one by one, since a cluster of thousands of nodes
        starts with as many of them: whoever commits what follows from them adds it."""
        return RecordDevices(devices=self.room.in_order())

    def reopen(self, study_id: str, at: float) -> list[Instruction]:
        """A study that had ended goes on."""
        study = self.studies[study_id]
        if study.ended_at is None:
            return []
        self.studies[study_id] = replace(study, ended_at=None)
        self.touch(study_id)
        return [RecordStudy(study=self.studies[study_id], at=at)]

    def wait_for_next_stage(self, trial_id: str, at: float, why: str = "") -> Instruction:
        """Put a trial before its current stage, walking past stages whose outputs are there. Records the trial."""
        trial = self._with_its_inputs(self.trials[trial_id])
        while trial.stage_index < len(trial.variant.stages):
            record = self.stages[trial.variant.stages[trial.stage_index].key]
            if record.state is not StageState.COMPLETED:
                break
            trial = past_stage(trial, record, at, reused=True)
        if trial.stage_index == len(trial.variant.stages):
            return self.set(trial, at, why=why)
        instruction = self.set(replace(trial, state=TrialState.QUEUED, queued_at=at), at, why=why)
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
            self.correct(record)
            self.queue.add(record)
        return instructions


def _runs_alone(demand: Demand) -> bool:
    """What parks does so by itself; and who may be slowed down by so much only has to be measured beside its
    neighbours, which members of stacks are not."""
    return demand.away_bytes > 0 or (demand.max_slowdown > 0.0 and demand.share < 1.0)
