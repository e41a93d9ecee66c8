"""The only place where decisions meet I/O. One scheduling cycle reads as numbered steps.

A cycle takes what happened from the cluster and what people ask from the store, lets the event machine decide what it
means, orders and packs the queue over one snapshot, commits every change to the store, and only then acts on it. All
that it knows it can read from the store again: whoever leads next goes on where this one was.
"""

import heapq
import itertools
import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from orchestrator.commands import CommandDesk
from orchestrator.events import (
    Event,
    HaltRequested,
    Instruction,
    Launch,
    LeaderLost,
    PlacementsDecided,
    PreemptionDecided,
    QueueRequested,
    Record,
    RecordStudy,
    Stop,
    StudyFinished,
    StudyForgotten,
)
from orchestrator.fusion import Fusion, Plan
from orchestrator.moving import Moving
from orchestrator.ordering import OrderingPolicy
from orchestrator.packing import PackingPolicy
from orchestrator.patience import Patience
from orchestrator.ports import Clock, Cluster, ClusterUnavailable, LeaderStore
from orchestrator.predictions import Predictions
from orchestrator.recovery import restore_ledger, restore_study
from orchestrator.schema import (
    Allocation,
    Command,
    Outcome,
    Prediction,
    Request,
    Study,
    Tenant,
    Trial,
    TrialState,
)
from orchestrator.search.desk import InThisThread, SearchDesk
from orchestrator.seating import Seating
from orchestrator.sharing.defragmentation import DefragmentationPolicy
from orchestrator.sharing.defragmentation import never as move_nobody
from orchestrator.sharing.preemption import PreemptionPolicy
from orchestrator.sharing.preemption import never as keep_all
from orchestrator.sharing.quota import admit
from orchestrator.snapshot import Head, Snapshot
from orchestrator.state import SchedulerState
from orchestrator.verdicts import Verdicts

logger = logging.getLogger(__name__)

T = TypeVar("T")

# So many requests are forecast, and so many placed, in one cycle at most: a cycle over ten thousand stays short.
FORECAST_AHEAD, PLACED_AT_ONCE = 300, 100
# A study that ended stays in mind for a while: people extend and clone what they have just seen end.
FORGET_AFTER_S = 600.0

Finish = Callable[[Study, Sequence[Trial], Sequence[Allocation], Sequence[Prediction]], StudyFinished]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """How the queue is served. `half_life_s`: of what tenants have used, for the orderings that look at it.
    `whole_devices`: the packing gives no shares of devices. `max_memory_raises`: how often a stage may be given more
    memory than it asked for before its trials fail. `fusion`: how stages of one fusion key become stacks; None: each
    runs in a program of its own. `antiphase`: programs that share a device take turns in what they do."""

    ordering: OrderingPolicy
    packing: PackingPolicy
    preemption: PreemptionPolicy
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    half_life_s: float = 86_400.0
    whole_devices: bool = False
    max_memory_raises: int = 3
    fusion: Fusion | None = None
    antiphase: bool = False
    defragmentation: DefragmentationPolicy = move_nobody

    def new_state(self, max_attempts: int) -> SchedulerState:
        """An empty machine that counts as these policies do."""
        return SchedulerState(
            max_attempts=max_attempts,
            tenants=self.tenants,
            half_life_s=self.half_life_s,
            whole_devices=self.whole_devices,
            max_memory_raises=self.max_memory_raises,
            fuses=self.fusion is not None,
            antiphase=self.antiphase,
        )


class SchedulingLoop:
    """Schedules what is in a store onto a cluster, for as long as its `term` lasts.

    max_attempts: how often a stage may be lost with its worker before its trials fail. finish: makes the report of a
    study that is over. term: of the caller's lease; 0 for a store that nobody else uses. forecasts: keep when trials
    were first expected to start and to end. new_bundle_id: ids that never came before; decisions may break ties by
    them. forget_after_s: how long a study that is over stays in mind. searching: where further trials of searched
    studies are drawn and composed.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        store: LeaderStore,
        clock: Clock,
        policies: Policies,
        max_attempts: int,
        finish: Finish,
        term: int = 0,
        pause: Callable[[float], None] = time.sleep,
        forecasts: bool = True,
        new_bundle_id: Callable[[], str] = lambda: uuid.uuid4().hex[:12],
        forget_after_s: float = FORGET_AFTER_S,
        searching: Executor | None = None,
    ) -> None:
        self.state = policies.new_state(max_attempts)
        self._cluster = cluster
        self._store = store
        self._clock = clock
        self._policies = policies
        self._finish = finish
        self._term = term
        self._batch = 0
        self._patience = Patience(pause)
        self._forecasts = forecasts
        self._new_bundle_id = new_bundle_id
        self._forget_after_s = forget_after_s
        self._desk = CommandDesk(self.state, store, cluster, clock)
        self._search = SearchDesk(self.state, clock, self._outputs_at_hand, searching or InThisThread())
        self._verdicts = Verdicts(self.state)
        self._seating = Seating(self.state, policies.fusion, new_bundle_id)
        self._predictions = Predictions(self.state)
        self._moving = Moving(self.state, policies.defragmentation, policies.packing)
        self._more_to_place = False
        self._unjudged: Sequence[str] = ()
        self._nodes_recorded = -1
        self._reports_waiting: dict[str, None] = {}
        self._to_forget: list[tuple[float, str]] = []

    # --- taking over and letting go ----------------------------------------------------------------------------------

    def take_over(self, beat_at: float) -> None:
        """Read what is open in the store; whatever an earlier leader ran ended with its last beat, at `beat_at`."""
        studies = [s for s in self._patience.when_there(lambda: self._store.studies(open_only=True)) if s.device_kind]
        instructions: list[Instruction] = []
        for study in studies:
            instructions += restore_study(self.state, self._store, study, self._outputs_at_hand, self._clock.now())
            self._predictions.know(p.trial_id for p in self._store.predictions(study.study_id))
        instructions += restore_ledger(self.state, self._store, beat_at)
        instructions += self.state.handle(LeaderLost(at=beat_at, reason="the process that led died"))
        instructions += self._send_back_for_inputs()
        self._carry_out(instructions)

    def _send_back_for_inputs(self) -> list[Instruction]:
        """Trials that were running, and whose earlier stages' outputs are gone, make them again."""
        now = self._clock.now()
        queued = (t for t in self.state.trials.values() if t.state is TrialState.QUEUED)
        trial_ids = tuple(trial.trial_id for trial in queued if self.state.lacks_inputs(trial))
        reason = "the output of an earlier stage is gone"
        pause = HaltRequested(at=now, trial_ids=trial_ids, into=TrialState.PAUSED, reason=reason)
        return self._decide([pause, QueueRequested(at=now, trial_ids=trial_ids)]) if trial_ids else []

    def wait_for_devices(self, timeout_s: float) -> None:
        """Poll until the first node has joined. Raises ClusterUnavailable if none does."""
        deadline = self._clock.now() + timeout_s
        while not self.state.room.devices:
            if self._clock.now() > deadline:
                raise ClusterUnavailable(f"no node offered a device within {timeout_s:.0f} s")
            self._carry_out(self._decide(self._cluster.poll(timeout_s=1.0)))

    def lose_cluster(self, reason: str) -> None:
        """The cluster is gone and will be started anew: its bundles wait again."""
        self._carry_out(self.state.handle(LeaderLost(at=self._clock.now(), reason=reason)))

    def suspend(self, grace_s: float, reason: str) -> None:
        """Let running bundles checkpoint at a step boundary, for `grace_s`; their trials wait for the next leader."""
        now = self._clock.now()
        stop = PreemptionDecided(at=now, bundle_ids=tuple(self.state.bundles), reason=reason, counts=False)
        self._carry_out(self._decide([stop]))
        while self.state.bundles and self._clock.now() < now + grace_s:
            self._carry_out(self._decide(self._cluster.poll(timeout_s=0.25)))

    # --- the cycle ---------------------------------------------------------------------------------------------------

    def cycle(self, timeout_s: float) -> None:
        """One scheduling cycle; waits at most `timeout_s` for something to happen."""
        # 1. What happened since the last cycle, and 2. what people ask for.
        events = self._cluster.poll(0.0 if self._more_to_place else timeout_s)
        commands: list[Command] = self._patience.if_there(self._store.pending_commands, [])
        # 3. What it means.
        instructions = self._decide(events)
        instructions += self._desk.handle(commands)
        # 4. Which trials have run long enough.
        touched = self.state.take_touched()
        instructions += self._decide(self._verdicts.of([*self._unjudged, *touched], self._clock.now()))
        # Also 4: which trials are added to studies that are searched, before those that wait run out.
        instructions += self._search.further([*self._unjudged, *touched])
        snapshot = self.state.snapshot(self._clock.now())
        self._more_to_place = False
        if (len(self.state.queue) or self.state.drawn) and snapshot.room.nodes:
            # 5. Who goes next, within whose quota: asked for as far as somebody wants to know. Those that will train as
            # one program stand there as one, once free seats of the programs that run are filled.
            ordered = self._policies.ordering(self.state.without_impossible(snapshot))
            seated = self._seating.seat(snapshot, ordered)
            instructions += seated.instructions
            service, others_wait = self._moving.served(admit(seated.requests, seated.snapshot)[0])
            # 6. Onto which devices, and 7. who makes room for those that don't fit.
            placed, unplaced, decided = self._place(seated.snapshot, iter(service), seated.plan)
            instructions += decided
            self._more_to_place |= others_wait
            if unplaced and not self._more_to_place:
                instructions += self._decide(self._make_room(placed, unplaced))
                # 8. When the others can expect to start.
                if self._forecasts:
                    instructions += self._predictions.of(unplaced[:FORECAST_AHEAD], self._clock.now())
        # Also 7: who leaves a device because sharing it was measured to do no good.
        instructions += self._decide(self.state.sharing_to_undo(self._clock.now()))
        # 9. Studies that are over get their report; those that were over long ago are forgotten.
        self._unjudged = self.state.take_touched()
        instructions += self._close_studies([*touched, *self._unjudged])
        instructions += self._forget_studies()
        # 10. Commit, then act.
        self._carry_out(instructions)

    def finished(self, study_id: str) -> bool:
        """Whether the study is known, over, and closed in the store."""
        study = self.state.studies.get(study_id)
        return study is not None and study.ended_at is not None

    # --- its steps ---------------------------------------------------------------------------------------------------

    def _decide(self, events: Iterable[Event]) -> list[Instruction]:
        return [instruction for event in events for instruction in self.state.handle(event)]

    def _place(
        self, snapshot: Snapshot, service: Iterator[Request], plan: Plan
    ) -> tuple[Collection[str], Sequence[Request], list[Instruction]]:
        """The bundles that start, the first of the requests that found no room if anybody wants to know, and what was
        decided. `service`: the order of service; what is behind its head is looked at before anything is placed.
        `plan`: whom its joined requests stand for."""
        head = Head(service, PLACED_AT_ONCE)
        placements = tuple(self._policies.packing(snapshot, head))
        placed = {placement.stage_key for placement in placements}
        unplaced: Sequence[Request] = ()
        if self._forecasts or self._policies.preemption is not keep_all or self._moving.on:
            first = itertools.islice(itertools.chain(head, service), len(placed) + FORECAST_AHEAD)
            unplaced = [request for request in first if request.stage_key not in placed]
        if not placements:
            return (), unplaced, []
        seats = plan.seats(placements, self._new_bundle_id)
        bundle_ids = tuple(self._new_bundle_id() for _ in seats)
        now = self._clock.now()
        instructions = self._decide([PlacementsDecided(at=now, placements=seats, bundle_ids=bundle_ids)])
        # Whether there is room for more will show in the next cycle, which follows at once.
        self._more_to_place = len(placements) == PLACED_AT_ONCE and len(self.state.queue) > 0
        return bundle_ids, unplaced, instructions

    def _make_room(self, placed: Collection[str], unplaced: Sequence[Request]) -> list[Event]:
        """Who is asked to leave, now that these bundles are placed: to make room, else to move."""
        nobody = self._policies.preemption is keep_all and not self._moving.on
        if nobody or len(self.state.bundles) == len(placed):
            return []
        snapshot = self.state.snapshot(self._clock.now(), without=placed)
        preemptions = self._policies.preemption(snapshot, unplaced, self._policies.ordering)
        if not preemptions:
            return [*self._moving.decide(snapshot, unplaced)]
        return [PreemptionDecided(at=snapshot.at, bundle_ids=p.bundle_ids, reason=p.reason) for p in preemptions]

    def _close_studies(self, study_ids: Iterable[str]) -> list[Instruction]:
        instructions: list[Instruction] = []
        for study_id in dict.fromkeys([*self._reports_waiting, *study_ids]):
            study = self.state.studies.get(study_id)
            if study is not None and study.ended_at is None and self._is_over(study_id):
                ended = replace(study, ended_at=self._clock.now())
                trials, ledger = self.state.study_trials(study_id), self.state.allocations_about(study_id)
                predictions = self._patience.when_there(partial(self._store.predictions, study_id))
                try:
                    finished = self._finish(ended, trials, ledger, predictions)
                except OSError as error:  # a full disk: the study stays open until its report can be written
                    self._say_report_waits(study_id, error)
                    continue
                study = self.state.studies[study_id] = ended
                instructions.append(RecordStudy(study=ended, finished=finished))
            self._reports_waiting.pop(study_id, None)
            if study is not None and study.ended_at is not None:
                heapq.heappush(self._to_forget, (study.ended_at + self._forget_after_s, study_id))
        return instructions

    def _is_over(self, study_id: str) -> bool:
        return self.state.finished(study_id) and not self._search.asks_more(study_id)

    def _forget_studies(self) -> list[Instruction]:
        now = self._clock.now()
        instructions: list[Instruction] = []
        while self._to_forget and self._to_forget[0][0] < now:
            _, study_id = heapq.heappop(self._to_forget)
            study = self.state.studies.get(study_id)
            # One that went on since then, and ended again, stands here a second time.
            if study is None or study.ended_at is None or study.ended_at + self._forget_after_s >= now:
                continue
            trial_ids = self.state.study_trial_ids[study_id]
            instructions += self.state.handle(StudyForgotten(at=now, study_id=study_id))
            if study_id in self.state.studies:  # it shares what it held with a study that is open
                heapq.heappush(self._to_forget, (now + self._forget_after_s, study_id))
            else:
                self._predictions.forget(trial_ids)
                self._verdicts.forget(study_id)
        return instructions

    def _say_report_waits(self, study_id: str, error: OSError) -> None:
        if study_id not in self._reports_waiting:
            self._reports_waiting[study_id] = None
            logger.warning("%s is over, its report can't be written yet: %s", study_id, error)

    def _outputs_at_hand(self, stage_keys: Iterable[str]) -> dict[str, Outcome]:
        return self._desk.outputs_at_hand(stage_keys)

    # --- commit, then act --------------------------------------------------------------------------------------------

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        records: list[Record] = [i for i in instructions if not isinstance(i, Launch) and not isinstance(i, Stop)]
        if self.state.room.nodes_revision != self._nodes_recorded:
            self._nodes_recorded = self.state.room.nodes_revision
            records.insert(0, self.state.record_devices())
        self._commit(records)
        for instruction in instructions:
            match instruction:
                case Launch():
                    logger.debug("launch %s: %s", instruction.bundle_id, instruction.placement)
                    self._cluster.launch(instruction)
                case Stop():
                    self._cluster.stop(instruction.bundle_id, instruction.reason)
                case _:
                    pass

    def _commit(self, records: Sequence[Record]) -> None:
        """Returns once the records are in the store, however long that is away; training goes on meanwhile.

        Raises LeaseLost if somebody else leads by now: then nothing of it happened.
        """
        if not records:
            return
        self._batch += 1
        self._patience.when_there(lambda: self._store.apply(records, term=self._term, batch=self._batch))
