"""What the best of all policies would place: the oracle for small cases."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import NO_LIMIT, SHARE_UNITS, Room, Snapshot, Spot, milli_cpus, share_units

# What a request counts at most beside its share, so that of equal shares the earlier requests are placed; all of them
# together count less than one device in two thousand.
_EARLIER = 5e-4
_OPTIMAL = 0


class Unsolved(RuntimeError):
    """The solver found no optimum in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimal:
    """Those requests are placed, wherever they fit, that together take the most device share.

    A mixed-integer program, solved to the end by HiGHS through `scipy.optimize.milp`. Nobody's turn counts: the first
    request may wait for ever. It takes seconds beyond some dozens of requests and devices; after `limit_s` it gives up
    with `Unsolved`. A request's part of a device's memory counts in full, also where less of it is left.

    Ties: the earlier requests, then whichever the solver finds.
    """

    limit_s: float = 60.0

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        if not requests or not snapshot.room.nodes:
            return []
        room = snapshot.room
        program = _Program(room, requests)
        spots = program.solved(self.limit_s)
        with room.attempt():
            return [
                room.place(request, spot) for request, spot in zip(requests, spots, strict=True) if spot is not None
            ]


@dataclass(slots=True)
class _Program:
    """The variables, all 0 or 1, and what holds for them.

    Whether a request is placed; for each device that fits a request, whether it sits there; for each node with such a
    device, or for work without devices each node that fits, whether it sits there.
    """

    room: Room
    requests: Sequence[Request]
    gains: list[float] = field(default_factory=list)
    placed: list[int] = field(default_factory=list)
    on_device: list[dict[tuple[int, int], int]] = field(default_factory=list)
    on_node: list[dict[int, int]] = field(default_factory=list)
    # Rows of the matrix: (variable, factor) pairs, the least and the most that their sum may be.
    rows: list[tuple[list[tuple[int, float]], float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        count = len(self.requests)
        for number, request in enumerate(self.requests):
            demand = request.demand
            share = demand.devices * share_units(demand.share) / SHARE_UNITS
            self.placed.append(self._variable(share + _EARLIER * (count - number) / count**2))
            if demand.devices:
                self._gang(demand)
            else:
                self._host_work(demand)
        self._devices_suffice()
        self._nodes_suffice()
        self._kinds_stay_apart()

    def _variable(self, gain: float = 0.0) -> int:
        self.gains.append(gain)
        return len(self.gains) - 1

    def _gang(self, demand: Demand) -> None:
        """As many devices as it wants, on no more nodes than it may."""
        placed, fits = self.placed[-1], self.room.fitting(demand)
        cells = {(row, column): self._variable() for row, column in np.argwhere(fits).tolist()}
        nodes = {row: self._variable() for row in dict.fromkeys(row for row, _ in cells)}
        self.on_device.append(cells)
        self.on_node.append(nodes)
        self._row([*((cell, 1.0) for cell in cells.values()), (placed, -float(demand.devices))], 0.0, 0.0)
        for row, node in nodes.items():
            here = [(cell, 1.0) for (on, _), cell in cells.items() if on == row]
            self._row([*here, (node, -float(demand.devices))], -np.inf, 0.0)
        self._row([*((node, 1.0) for node in nodes.values()), (placed, -float(max(1, demand.max_nodes)))], -np.inf, 0.0)

    def _host_work(self, demand: Demand) -> None:
        rows = self.room.node_fits(demand).nonzero()[0].tolist()
        nodes = {row: self._variable() for row in rows}
        self.on_device.append({})
        self.on_node.append(nodes)
        self._row([*((node, 1.0) for node in nodes.values()), (self.placed[-1], -1.0)], 0.0, 0.0)

    def _row(self, terms: list[tuple[int, float]], least: float, most: float) -> None:
        if terms:
            self.rows.append((terms, least, most))

    def _devices_suffice(self) -> None:
        room = self.room
        for row, column in np.argwhere(room.exists).tolist():
            here = [(d, cells[row, column]) for d, cells in self._gangs() if (row, column) in cells]
            left, whole = room.memory_bytes.item(row, column), room.whole_memory_bytes.item(row, column)
            share = [(cell, share_units(demand.share) / SHARE_UNITS) for demand, cell in here]
            self._row(share, -np.inf, room.share.item(row, column) / SHARE_UNITS)
            if whole:
                granted = [
                    (cell, min(left, max(demand.memory_bytes, int(demand.share * whole))) / whole)
                    for demand, cell in here
                ]
                self._row(granted, -np.inf, left / whole)

    def _nodes_suffice(self) -> None:
        """A gang takes of each node in proportion to its devices there."""
        for row in range(len(self.room.nodes)):
            for left, wanted in (
                (self.room.milli_cpus.item(row), [milli_cpus(r.demand.cpus) for r in self.requests]),
                (self.room.host_memory_bytes.item(row), [r.demand.host_memory_bytes for r in self.requests]),
            ):
                if left >= NO_LIMIT // 2:
                    continue
                scale = float(max(1, left, *wanted))
                terms: list[tuple[int, float]] = []
                for number, request in enumerate(self.requests):
                    devices = request.demand.devices
                    here = (
                        [cell for (on, _), cell in self.on_device[number].items() if on == row]
                        if devices
                        else [node for on, node in self.on_node[number].items() if on == row]
                    )
                    terms += [(variable, wanted[number] / max(1, devices) / scale) for variable in here]
                self._row(terms, -np.inf, left / scale)

    def _kinds_stay_apart(self) -> None:
        conflicts = self.room.conflicts
        gangs = list(self._gangs())
        for number, (demand, cells) in enumerate(gangs):
            for other, other_cells in gangs[number + 1 :]:
                if other.kind in conflicts.get(demand.kind, ()) or demand.kind in conflicts.get(other.kind, ()):
                    for cell in cells.keys() & other_cells.keys():
                        self._row([(cells[cell], 1.0), (other_cells[cell], 1.0)], -np.inf, 1.0)

    def _gangs(self) -> Iterator[tuple[Demand, dict[tuple[int, int], int]]]:
        return ((r.demand, cells) for r, cells in zip(self.requests, self.on_device, strict=True) if r.demand.devices)

    def solved(self, limit_s: float) -> list[Spot | None]:
        """Of each request its place; None if it isn't placed. Raises Unsolved."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        terms = [(line, variable, factor) for line, (row, _, _) in enumerate(self.rows) for variable, factor in row]
        lines, variables, factors = (np.array(part) for part in zip(*terms, strict=True))
        matrix = coo_array((factors, (lines, variables)), shape=(len(self.rows), len(self.gains))).tocsr()
        solution = milp(
            -np.array(self.gains),
            constraints=LinearConstraint(matrix, [row[1] for row in self.rows], [row[2] for row in self.rows]),
            integrality=np.ones(len(self.gains)),
            bounds=Bounds(0, 1),
            options={"time_limit": limit_s, "mip_rel_gap": 0.0},
        )
        if solution.status != _OPTIMAL:
            raise Unsolved(
                f"packing=optimal: {len(self.requests)} requests on {self.room.device_count} devices are not solved "
                f"after packing.limit_s={limit_s:g}; ask about fewer, or take packing=frontier"
            )
        taken = solution.x > 0.5
        return [self._spot(number, taken) for number in range(len(self.requests))]

    def _spot(self, number: int, taken: np.ndarray) -> Spot | None:
        if not taken[self.placed[number]]:
            return None
        if not self.requests[number].demand.devices:
            return next(((row, ()),) for row, node in self.on_node[number].items() if taken[node])
        columns: dict[int, list[int]] = {}
        for (row, column), cell in self.on_device[number].items():
            if taken[cell]:
                columns.setdefault(row, []).append(column)
        return tuple((row, tuple(here)) for row, here in columns.items())
