"""How full can a policy pack? Trials arrive, one after the other, and nothing ever ends.

The protocol of Weng et al., "Beware of Fragmentation" (USENIX ATC'23): the trials are shuffled, then drawn with
replacement and appended, until what they ask of devices comes to 130 % of all devices. Nothing moves, and what finds no
room is dropped. The *unallocated share* is the percentage of all devices that those who were placed did not ask for: a
policy that gives away more than it was asked for leaves no less. It is read when the demand that arrived first reaches
100 % and 130 %.

With a *window* of w, up to w arrivals wait together, and the policy may place any of them whenever it is asked. Once w
wait, the oldest leaves: if it was not placed by then it is dropped. Then what counts as arrived is what has left the
window, placed or dropped, and arrivals go on until that comes to 130 %. A window of 1 is the published protocol.
Seconds count arrivals.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from random import Random

from orchestrator.events import Event, HaltRequested
from orchestrator.ports import TraceError
from orchestrator.schema import Stage, TraceTrial, TrialState
from orchestrator.simulation.protocols.protocol import Arrival, Scene
from orchestrator.snapshot import SHARE_UNITS, share_units

MARKS = (100, 130)
_STUDY = "arrivals"


class ArrivalsOnly:
    """The seed shuffles and draws. Of a trial only the first stage counts, and none is shared."""

    timed = False
    knows_demands = True

    def __init__(self, scene: Scene) -> None:
        """Raises TraceError if no trial of the trace asks for a device."""
        self._scene = scene
        self._capacity = scene.capacity * SHARE_UNITS
        if not any(_units(trial) for trial in scene.trace.trials):
            raise TraceError(scene.trace.file or scene.trace.name, 0, "nothing asks for a device", "use another trace")
        # Who waits and what they ask for, oldest first.
        self._waiting: deque[tuple[str, int]] = deque()
        # What those that have left the window asked for, and those of them that were placed.
        self._arrived = 0
        self._placed = 0
        self._read: dict[str, float] = {}

    def arrivals(self) -> Iterator[Arrival]:
        for number, trial in enumerate(self._drawn()):
            if len(self._read) == len(MARKS):
                return
            yield float(number), partial(self._arrive, trial, number)

    def duration_s(self, stage: Stage) -> float:
        return math.inf

    def results(self) -> Mapping[str, float]:
        return self._read

    def _drawn(self) -> Iterator[TraceTrial]:
        """The trace's trials shuffled, then drawn with replacement."""
        random = Random(self._scene.seed)
        trials = list(self._scene.trace.trials)
        random.shuffle(trials)
        yield from trials
        while True:
            yield random.choice(trials)

    def _arrive(self, trial: TraceTrial, number: int) -> list[Event]:
        """One more arrival, once the one before it was decided."""
        at = float(number)
        events = self._settle(at)
        if len(self._read) == len(MARKS):
            return events
        first = trial.stages[0]
        arriving = TraceTrial(
            trial_id=str(number),
            study_id=_STUDY,
            submitted_at=at,
            stages=(replace(first, key="") if first.key else first,),
            tenant=trial.tenant,
            priority=trial.priority,
        )
        self._waiting.append((arriving.trial_id, _units(trial)))
        return [*events, *self._scene.submissions.arrive((arriving,), at)]

    def _settle(self, at: float) -> list[Event]:
        """Whoever was placed has left the window, and the oldest leaves a full one."""
        still_waiting = self._scene.recorder.waiting
        placed = [units for trial_id, units in self._waiting if trial_id not in still_waiting]
        if placed:
            self._waiting = deque(waits for waits in self._waiting if waits[0] in still_waiting)
            self._placed += sum(placed)
            self._leave(sum(placed))
        if len(self._waiting) < self._scene.window:
            return []
        trial_id, units = self._waiting.popleft()
        self._leave(units)
        return [HaltRequested(at=at, trial_ids=(trial_id,), into=TrialState.CANCELLED, reason="found no room")]

    def _leave(self, units: int) -> None:
        self._arrived += units
        for mark in MARKS:
            name = f"unallocated_share_at_{mark}"
            if name not in self._read and 100 * self._arrived >= mark * self._capacity:
                self._read[name] = 100.0 * (1.0 - self._placed / self._capacity)


def _units(trial: TraceTrial) -> int:
    """What a trial asks of all devices together."""
    demand = trial.stages[0].demand
    return demand.devices * share_units(demand.share)
