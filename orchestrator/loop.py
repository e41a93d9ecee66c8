"""The only place where decisions meet I/O. One scheduling cycle reads as numbered steps.

A cycle takes what happened from the cluster and what people ask from the store, lets the event machine decide what it
means, orders and packs the queue over one snapshot, commits every change to the store, and only then acts on it. All
that it knows it can read from the store again: whoever leads next goes on where this one was.
"""

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    RecordPredictions,
    RecordStudy,
    Stop,
    StudyFinished,
    StudyForgotten,
)
from orchestrator.forecast import forecast
from orchestrator.ordering import OrderingPolicy
from orchestrator.packing import PackingPolicy
from orchestrator.ports import Clock, Cluster, ClusterUnavailable, Store, StoreUnavailable
from orchestrator.recovery import restore_ledger, restore_study
from orchestrator.schema import (
    Allocation,
    Command,
    Outcome,
    Prediction,
    Request,
    Snapshot,
    Stage,
    Study,
    Tenant,
    Trial,
    TrialState,
)
from orchestrator.sharing.changes import after_placements
from orchestrator.sharing.preemption import PreemptionPolicy
from orchestrator.sharing.quota import admit
from orchestrator.state import SchedulerState
from orchestrator.stopping import STOPPINGS, StoppingPolicy, never

logger = logging.getLogger(__name__)

T = TypeVar("T")

STORE_RETRY_S = 0.5
# Forecasts are made for the queue as a whole; their cost is kept below this part of the time.
FORECAST_EVERY_S, FORECAST_PART = 2.0, 0.02
# So many requests are forecast, and so many placed, in one cycle at most: a cycle over ten thousand stays short.
FORECAST_AHEAD, PLACED_AT_ONCE = 300, 100
# A study that ended stays in mind for a while: people extend and clone what they have just seen end.
FORGET_AFTER_S = 600.0

Finish = Callable[[Study, Sequence[Trial], Sequence[Allocation], Sequence[Prediction]], StudyFinished]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """How the queue is served. `half_life_s`: of what tenants have used, for the orderings that look at it.
    `whole_devices`: the packing gives no shares of devices."""

    ordering: OrderingPolicy
    packing: PackingPolicy
    preemption: PreemptionPolicy
    tenants: Mapping[str, Tenant] = field(default_factory=dict)
    half_life_s: float = 86_400.0
    whole_devices: bool = False

    def new_state(self, max_attempts: int) -> SchedulerState:
        """An empty machine that counts as these policies do."""
        return SchedulerState(
            max_attempts=max_attempts,
            tenants=self.tenants,
            half_life_s=self.half_life_s,
            whole_devices=self.whole_devices,
        )


class SchedulingLoop:
    """Schedules what is in a store onto a cluster, for as long as its `term` lasts.

    max_attempts: how often a stage may be lost with its worker before its trials fail. finish: makes the report of a
    study that is over. term: of the caller's lease; 0 for a store that nobody else uses.
    """

    def __init__(
        self,
        *,
        cluster: Cluster,
        store: Store,
        clock: Clock,
        policies: Policies,
        max_attempts: int,
        finish: Finish,
        term: int = 0,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.state = policies.new_state(max_attempts)
        self._cluster = cluster
        self._store = store
        self._clock = clock
        self._policies = policies
        self._finish = finish
        self._term = term
        self._batch = 0
        self._pause = pause
        self._desk = CommandDesk(self.state, store, cluster, clock)
        self._predicted: set[str] = set()
        self._forecast_due_at = 0.0
        self._waiting_since: float | None = None
        self._more_to_place = False
        self._reports_waiting: set[str] = set()

    # --- taking over and letting go ----------------------------------------------------------------------------------

    def take_over(self, beat_at: float) -> None:
        """Read what is open in the store; whatever an earlier leader ran ended with its last beat, at `beat_at`."""
        studies = [s for s in self._when_there(lambda: self._store.studies(open_only=True)) if s.device_kind]
        instructions: list[Instruction] = []
        for study in studies:
            instructions += restore_study(self.state, self._store, study, self._outputs_at_hand, self._clock.now())
            self._predicted |= {p.trial_id for p in self._store.predictions(study.study_id)}
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
        commands = self._pending_commands()
        # 3. What it means.
        instructions = self._decide(events)
        instructions += self._desk.handle(commands)
        # 4. Which trials have run long enough.
        instructions += self._decide(self._verdicts())
        snapshot = self.state.snapshot(self._clock.now())
        self._more_to_place = False
        if snapshot.queue and snapshot.devices:
            # 5. Who goes next, within whose quota.
            ordered, _ = admit(self._policies.ordering(self.state.without_impossible(snapshot)), snapshot)
            # 6. Onto which devices, and 7. who makes room for those that don't fit.
            placed, unplaced, decided = self._place(snapshot, ordered)
            instructions += decided
            if not self._more_to_place:
                instructions += self._decide(self._make_room(placed, unplaced))
                # 8. When the others can expect to start.
                instructions += self._predict(unplaced[:FORECAST_AHEAD])
        # 9. Studies that are over get their report.
        instructions += self._close_studies()
        # 10. Commit, then act.
        self._carry_out(instructions)

    def finished(self, study_id: str) -> bool:
        """Whether the study is known, over, and closed in the store."""
        study = self.state.studies.get(study_id)
        return study is not None and study.ended_at is not None

    # --- its steps ---------------------------------------------------------------------------------------------------

    def _pending_commands(self) -> list[Command]:
        try:
            return self._store.pending_commands()
        except StoreUnavailable as error:
            self._say_store_away(error)
            return []

    def _decide(self, events: Iterable[Event]) -> list[Instruction]:
        return [instruction for event in events for instruction in self.state.handle(event)]

    def _verdicts(self) -> list[Event]:
        events: list[Event] = []
        for study_id, study in self.state.studies.items():
            policy = self._stopping(study)
            stopped = tuple(policy(self.state.study_trials(study_id))) if policy is not never else ()
            if stopped:
                reason = f"stopped early by {getattr(policy, '__name__', 'the stopping policy')}"
                now = self._clock.now()
                events.append(HaltRequested(at=now, trial_ids=stopped, into=TrialState.PRUNED, reason=reason))
        return events

    def _stopping(self, study: Study) -> StoppingPolicy:
        return STOPPINGS[study.config["stopping"]["name"]] if "stopping" in study.config else never

    def _place(
        self, snapshot: Snapshot, ordered: Sequence[Request]
    ) -> tuple[Snapshot, Sequence[Request], list[Instruction]]:
        """The snapshot after placing, the requests that found no room, and what was decided."""
        placements = tuple(self._policies.packing(snapshot.devices, ordered[:PLACED_AT_ONCE]))
        # Whether there is room for more will show in the next cycle, which follows at once.
        self._more_to_place = len(ordered) > len(placements) == PLACED_AT_ONCE
        if not placements:
            return snapshot, ordered, []
        bundle_ids = tuple(uuid.uuid4().hex[:12] for _ in placements)
        now = self._clock.now()
        instructions = self._decide([PlacementsDecided(at=now, placements=placements, bundle_ids=bundle_ids)])
        placed = {placement.stage_key for placement in placements}
        unplaced = [request for request in ordered if request.stage_key not in placed]
        return after_placements(snapshot, placements), unplaced, instructions

    def _make_room(self, snapshot: Snapshot, unplaced: Sequence[Request]) -> list[Event]:
        if not unplaced or not snapshot.residents:
            return []
        preemptions = self._policies.preemption(snapshot, unplaced, self._policies.ordering)
        return [PreemptionDecided(at=snapshot.at, bundle_ids=p.bundle_ids, reason=p.reason) for p in preemptions]

    def _predict(self, unplaced: Sequence[Request]) -> list[Instruction]:
        """The first expectation of every trial, kept so that the report can say how good it was."""
        now = self._clock.now()
        unpredicted = [r for r in unplaced if not self._predicted.issuperset(r.trial_ids)]
        if not unpredicted or now < self._forecast_due_at:
            return []
        started = time.perf_counter()
        expected = forecast(self.state, unplaced, now)
        cost_s = time.perf_counter() - started
        self._forecast_due_at = now + max(FORECAST_EVERY_S, cost_s / FORECAST_PART)
        predictions = tuple(
            Prediction(
                trial_id=trial_id,
                study_id=self.state.trials[trial_id].study_id,
                made_at=now,
                start_at=expectation.start_at,
                end_at=expectation.end_at,
            )
            for trial_id, expectation in expected.items()
            if trial_id not in self._predicted
            and expectation.start_at is not None
            and self.state.trials[trial_id].state is TrialState.QUEUED
            and all(self.state.durations.knows(stage) for stage in _stages_left(self.state.trials[trial_id]))
        )
        self._predicted.update(prediction.trial_id for prediction in predictions)
        return [RecordPredictions(predictions=predictions)] if predictions else []

    def _close_studies(self) -> list[Instruction]:
        instructions: list[Instruction] = []
        for study_id, study in list(self.state.studies.items()):
            if study.ended_at is None and self.state.finished(study_id):
                ended = replace(study, ended_at=self._clock.now())
                trials, ledger = self.state.study_trials(study_id), self.state.allocations(study_id)
                predictions = self._when_there(partial(self._store.predictions, study_id))
                try:
                    finished = self._finish(ended, trials, ledger, predictions)
                except OSError as error:  # a full disk: the study stays open until its report can be written
                    self._say_report_waits(study_id, error)
                    continue
                self.state.studies[study_id] = ended
                instructions.append(RecordStudy(study=ended, finished=finished))
            elif study.ended_at is not None and self._clock.now() - study.ended_at > FORGET_AFTER_S:
                instructions += self.state.handle(StudyForgotten(at=self._clock.now(), study_id=study_id))
        return instructions

    def _say_report_waits(self, study_id: str, error: OSError) -> None:
        if study_id not in self._reports_waiting:
            self._reports_waiting.add(study_id)
            logger.warning("%s is over, its report can't be written yet: %s", study_id, error)

    def _outputs_at_hand(self, stage_keys: Iterable[str]) -> dict[str, Outcome]:
        return self._desk.outputs_at_hand(stage_keys)

    # --- commit, then act --------------------------------------------------------------------------------------------

    def _carry_out(self, instructions: Sequence[Instruction]) -> None:
        self._commit([i for i in instructions if not isinstance(i, Launch | Stop)])
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
        self._when_there(lambda: self._store.apply(records, term=self._term, batch=self._batch))

    def _when_there(self, call: Callable[[], T]) -> T:
        while True:
            try:
                result = call()
            except StoreUnavailable as error:
                self._say_store_away(error)
                self._pause(STORE_RETRY_S)
            else:
                self._say_store_back()
                return result

    def _say_store_away(self, error: StoreUnavailable) -> None:
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
            logger.warning("store: %s; waiting for it, training goes on", error)

    def _say_store_back(self) -> None:
        if self._waiting_since is not None:
            logger.warning("store: there again after %.0f s", time.monotonic() - self._waiting_since)
            self._waiting_since = None


def _stages_left(trial: Trial) -> tuple[Stage, ...]:
    return trial.variant.stages[trial.stage_index :]
