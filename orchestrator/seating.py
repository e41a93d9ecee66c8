"""Who trains with others as one program, in a cycle: free seats are filled first, then those that wait are joined.

The planner in `orchestrator.fusion` decides; here its decisions meet quotas and the event machine.
"""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from orchestrator.events import Instruction, PlacementsDecided, QueueRequested
from orchestrator.fusion import Fusion, Plan
from orchestrator.schema import Fate, Placement, Request
from orchestrator.sharing.quota import admit
from orchestrator.snapshot import Snapshot
from orchestrator.state import SchedulerState


@dataclass(frozen=True, slots=True)
class Seated:
    """What follows from filling seats, the snapshot after it, and the order of service, in which those that will train
    as one program stand as one request; `plan` says whom such a request stands for."""

    snapshot: Snapshot
    requests: Iterable[Request]
    plan: Plan = field(default_factory=lambda: Plan(()))
    instructions: list[Instruction] = field(default_factory=list)


class Seating:
    """`fusion`: how stages of one fusion key become stacks; None: each runs in a program of its own."""

    def __init__(self, state: SchedulerState, fusion: Fusion | None, new_bundle_id: Callable[[], str]) -> None:
        self._state = state
        self._fusion = fusion
        self._new_bundle_id = new_bundle_id

    def seat(self, snapshot: Snapshot, ordered: Iterable[Request]) -> Seated:
        """Fills the seats that members of running stacks have left, each within its tenant's quota, and joins those
        that wait behind them. `ordered`: the order of service. Seats that nobody waits for go to trials that a stopping
        policy has drawn to be finished: there they cost neither a start nor a device."""
        fusion = self._fusion
        if fusion is None:
            return Seated(snapshot, ordered)
        service = iter(ordered)
        waiting = list(itertools.islice(service, fusion.look_ahead))
        stacks = self._state.stacks.all()
        drawn = self._state.drawn_requests() if stacks and fusion.refill else []
        seats = fusion.fill(snapshot, stacks, self._admitted(fusion, snapshot, [*waiting, *drawn]))
        instructions: list[Instruction] = []
        if seats:
            instructions = self._take(seats, drawn, snapshot.at)
            seated = {placement.stage_key for placement in seats}
            waiting = [request for request in waiting if request.stage_key not in seated]
            snapshot = self._state.snapshot(snapshot.at)
        plan = fusion.join(snapshot, self._state.widths, waiting)
        return Seated(snapshot, itertools.chain(plan.requests, service), plan, instructions)

    def _take(self, seats: tuple[Placement, ...], drawn: list[Request], at: float) -> list[Instruction]:
        """Bundles in these seats; who is held, and gets one, waits for it first."""
        seated = {placement.stage_key for placement in seats}
        finishing = tuple(t for request in drawn if request.stage_key in seated for t in request.trial_ids)
        instructions: list[Instruction] = []
        if finishing:
            instructions += self._state.handle(QueueRequested(at=at, trial_ids=finishing, fate=Fate.FINISHING))
        bundle_ids = tuple(self._new_bundle_id() for _ in seats)
        decided = PlacementsDecided(at=at, placements=seats, bundle_ids=bundle_ids)
        return instructions + self._state.handle(decided)

    def _admitted(self, fusion: Fusion, snapshot: Snapshot, waiting: list[Request]) -> list[Request]:
        """Whom their tenants' quotas let take a seat now."""
        stacks = self._state.stacks.all()
        if not stacks or not snapshot.has_quotas:
            return waiting
        fit, _ = admit(fusion.for_seats(stacks, waiting), snapshot)
        keys = {request.stage_key for request in fit}
        return [request for request in waiting if request.stage_key in keys]
