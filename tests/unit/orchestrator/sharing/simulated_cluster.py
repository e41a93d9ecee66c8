"""A cluster in virtual seconds that orders, admits, packs and preempts with the real policies, once a second."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from orchestrator.ordering import OrderingPolicy
from orchestrator.packing import BestFit
from orchestrator.schema import Placement, Request, Resident, Tenant
from orchestrator.sharing import Preemption, PreemptionPolicy, admit, after_placements
from orchestrator.sharing.quota import fits_quota
from orchestrator.snapshot import Snapshot
from tests.unit.orchestrator.sharing.snapshots import snapshot


@dataclass
class Run:
    """A bundle that needs `left_s` more; one that was asked to leave does so at `leaves_at`."""

    request: Request
    placement: Placement
    opened_at: float
    left_s: float
    leaves_at: float | None = None


@dataclass
class Cycle:
    """What happened in one second, for tests to judge."""

    at: float
    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    arrived: list[str] = field(default_factory=list)
    in_quota_waiting: list[str] = field(default_factory=list)
    preemptions: list[Preemption] = field(default_factory=list)
    held: Counter[str] = field(default_factory=Counter)


@dataclass
class SimulatedCluster:
    nodes: Sequence[int]
    tenants: Sequence[Tenant]
    ordering: OrderingPolicy
    preemption: PreemptionPolicy
    stop_delay_s: int
    arrivals: list[tuple[Request, float]]
    queue: dict[str, tuple[Request, float]] = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)
    preempted: Counter[str] = field(default_factory=Counter)

    def drive(self, seconds: int) -> list[Cycle]:
        """The cycles until nothing waits or runs any more, `seconds` at most."""
        cycles = []
        for second in range(seconds):
            cycles.append(self._cycle(float(second)))
            if not (self.arrivals or self.queue or self.runs):
                break
        return cycles

    def _cycle(self, at: float) -> Cycle:
        cycle = Cycle(at=at)
        self._end_and_leave(cycle)
        cycle.arrived = [request.stage_key for request, _ in self.arrivals if request.queued_at <= at]
        self.queue |= {r.stage_key: (r, hold_s) for r, hold_s in self.arrivals if r.queued_at <= at}
        self.arrivals = [arrival for arrival in self.arrivals if arrival[0].queued_at > at]
        now = self._snapshot(at)
        served_next, _ = admit(self.ordering(now), now)
        admitted = list(served_next)
        placements = BestFit()(now, admitted)
        for placement in placements:
            request, left_s = self.queue.pop(placement.stage_key)
            self.runs[placement.stage_key] = Run(request, placement, at, left_s)
            cycle.started.append(placement.stage_key)
        then = after_placements(now, placements)
        unplaced = [request for request in admitted if request.stage_key in self.queue]
        cycle.in_quota_waiting = self._in_quota(then, unplaced)
        cycle.preemptions = list(self.preemption(then, unplaced, self.ordering))
        for preemption in cycle.preemptions:
            for bundle_id in preemption.bundle_ids:
                run = self.runs[bundle_id.removeprefix("bundle-")]
                assert run.leaves_at is None, "asked to leave twice"
                run.leaves_at = at + self.stop_delay_s
                self.preempted[run.request.stage_key] += 1
        for run in self.runs.values():
            cycle.held[run.request.tenant] += len(run.placement.device_ids) * run.placement.share
        return cycle

    def _end_and_leave(self, cycle: Cycle) -> None:
        for key, run in list(self.runs.items()):
            run.left_s -= 1.0 if run.opened_at < cycle.at else 0.0
            if run.left_s <= 0:
                cycle.ended.append(key)
                del self.runs[key]
            elif run.leaves_at is not None and run.leaves_at <= cycle.at:
                again = replace(run.request, preemptions=run.request.preemptions + 1)
                self.queue[key] = again, run.left_s
                del self.runs[key]

    def _snapshot(self, at: float) -> Snapshot:
        return snapshot(
            nodes=self.nodes,
            residents=[
                Resident(
                    bundle_id=f"bundle-{key}",
                    placement=run.placement,
                    request=run.request,
                    opened_at=run.opened_at,
                    unsaved_s=at - run.opened_at,
                    stopping=run.leaves_at is not None,
                )
                for key, run in self.runs.items()
            ],
            queue=sorted((request for request, _ in self.queue.values()), key=lambda request: request.queued_at),
            tenants=self.tenants,
            at=at,
        )

    @staticmethod
    def _in_quota(now: Snapshot, unplaced: Sequence[Request]) -> list[str]:
        counted = {name: use.held.devices for name, use in now.tenants.items()}
        waiting = []
        for request in unplaced:
            counted[request.tenant] += request.demand.devices * request.demand.share
            if fits_quota(now.tenants[request.tenant].tenant, counted[request.tenant]):
                waiting.append(request.stage_key)
        return waiting
