"""When queued trials are expected to start and to end. Pure: a run of the queue over the devices in expected times.

The queue is served in the order of service, each request by the first devices that have room, and nobody overtakes the
first that has none: the packing policies' own rule. A stage that ends lets the trials that waited for it ask for their
next one. Nothing is expected of stages whose duration nobody can tell, and of whatever waits behind them.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.schema import Demand, Request, StageState
from orchestrator.state import SchedulerState
from orchestrator.state.snapshots import expected_end_at

_TOLERANCE = 1e-9


def width_of(state: SchedulerState, request: Request) -> int:
    """How many will train as the one program that is asked for: the stages that its trials are at."""
    trials = (state.trials[trial_id] for trial_id in request.trial_ids)
    return len({trial.variant.stages[trial.stage_index].key for trial in trials})


@dataclass(frozen=True, slots=True)
class Expectation:
    """When a trial is expected to hold devices of its own for the first time from now on (None: it does already, or
    others run all that it waits for), and to end [s since the epoch]."""

    start_at: float | None
    end_at: float


def forecast(state: SchedulerState, ordered: Sequence[Request], at: float) -> dict[str, Expectation]:
    """What is expected of the trials that run or wait, by trial id; those of which nothing can be said are left out.

    `ordered`: the queue in the order of service, without whoever is held back, those that will train as one program
    joined (`fusion.Plan.requests`).
    """
    return _Run(state, at).expectations(ordered)


class _Run:
    """One run of the queue, from `at` on."""

    def __init__(self, state: SchedulerState, at: float) -> None:
        self._state = state
        self._at = at
        free = state.room.free()
        self._index = {f.device.device_id: i for i, f in enumerate(free)}
        self._share = np.array([f.free_share for f in free])
        self._memory = np.array([float(f.free_memory_bytes) for f in free])
        nodes = {node: i for i, node in enumerate(dict.fromkeys(f.device.node_id for f in free))}
        self._node = np.array([nodes[f.device.node_id] for f in free], dtype=int)
        self._order = itertools.count()
        self._running: list[tuple[float, int, str, tuple[int, ...], Demand]] = []
        self._queue: deque[str] = deque()
        self._waiters: dict[str, list[str]] = {}
        self._width: dict[str, int] = {}
        self._position = {t.trial_id: t.stage_index for t in state.trials.values()}
        self._starts: dict[str, float] = {}
        self._ends: dict[str, float] = {}

    def expectations(self, ordered: Sequence[Request]) -> dict[str, Expectation]:
        for bundle in self._state.bundles.values():
            record = self._state.stages[bundle.launch.stage.key]
            end_at = expected_end_at(bundle, record, self._state.durations)
            placement = bundle.launch.placement
            demand = Demand(
                devices=len(placement.device_ids), share=placement.share, memory_bytes=placement.memory_bytes
            )
            indexes = tuple(self._index[d] for d in placement.device_ids if d in self._index)
            self._waiters[record.stage.key] = list(record.waiters)
            if end_at is not None:
                self._push(max(self._at, end_at), record.stage.key, indexes, demand)
        for request in ordered:
            self._waiters[request.stage_key] = list(request.trial_ids)
            self._width[request.stage_key] = width_of(self._state, request)
            self._queue.append(request.stage_key)
        now = self._at
        self._start_what_fits(now)
        while self._running:
            now, _, stage_key, indexes, demand = heapq.heappop(self._running)
            self._release(indexes, demand)
            self._end(stage_key, now)
            self._start_what_fits(now)
        return {t: Expectation(self._starts.get(t), end_at) for t, end_at in self._ends.items()}

    def _start_what_fits(self, now: float) -> None:
        while self._queue:
            record = self._state.stages[self._queue[0]]
            width = self._width.get(record.stage.key, 1)
            expected_s = self._state.durations.expected_s(record.stage, 1.0 - record.progress, width)
            indexes = self._room_for(record.demand)
            if expected_s is None or indexes is None:
                return
            self._queue.popleft()
            self._take(indexes, record.demand)
            # Of a program of many everybody starts; of a stage that many wait for, whoever leads them.
            for trial_id in self._waiters[record.stage.key][: None if width > 1 else 1]:
                self._starts.setdefault(trial_id, now)
            self._push(now + expected_s, record.stage.key, indexes, record.demand)

    def _room_for(self, demand: Demand) -> tuple[int, ...] | None:
        fits = (self._share + _TOLERANCE >= demand.share) & (self._memory >= demand.memory_bytes)
        if demand.devices == 1:
            first = int(np.argmax(fits)) if fits.size else 0
            return (first,) if fits.size and fits[first] else None
        found = np.flatnonzero(fits)
        counts = np.bincount(self._node[found]) if found.size else np.zeros(1, dtype=int)
        node = int(np.argmax(counts >= demand.devices))
        if counts[node] < demand.devices:
            return None
        return tuple(int(i) for i in found[self._node[found] == node][: demand.devices])

    # One by one: numpy takes longer to read a list of few indexes.
    def _take(self, indexes: tuple[int, ...], demand: Demand) -> None:
        for index in indexes:
            self._share[index] -= demand.share
            self._memory[index] -= demand.memory_bytes

    def _release(self, indexes: tuple[int, ...], demand: Demand) -> None:
        for index in indexes:
            self._share[index] += demand.share
            self._memory[index] += demand.memory_bytes

    def _push(self, end_at: float, stage_key: str, indexes: tuple[int, ...], demand: Demand) -> None:
        heapq.heappush(self._running, (end_at, next(self._order), stage_key, indexes, demand))

    def _end(self, stage_key: str, now: float) -> None:
        """Whoever waited for the stage ends with its last one, or asks for the next that nobody has run."""
        for trial_id in self._waiters.pop(stage_key):
            stages = self._state.trials[trial_id].variant.stages
            position = self._position[trial_id] + 1
            while position < len(stages) and self._there(stages[position].key, stage_key):
                position += 1
            self._position[trial_id] = position
            if position == len(stages):
                self._ends[trial_id] = now
            elif stages[position].key in self._waiters:
                self._waiters[stages[position].key].append(trial_id)
            else:
                self._waiters[stages[position].key] = [trial_id]
                self._queue.append(stages[position].key)

    def _there(self, stage_key: str, just_ended: str) -> bool:
        return stage_key == just_ended or self._state.stages[stage_key].state is StageState.COMPLETED
