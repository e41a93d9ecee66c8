"""What is left on each device and node, in arrays that live as long as the nodes do.

Devices lie in arrays of shape [nodes, devices of the largest node]. A node is a row, in order of its id; a device is a
column, in order of its index; what a smaller node lacks is filled with devices that fit nothing. Shares are whole
numbers of `SHARE_UNITS` and cores of thousandths, so that taking and giving back never drifts.

A *spot* says where a request goes: per node its row and the columns of its devices there, which are none for work on
the host alone. Who keeps an index over a room puts it into `cache` and asks `changed_since` which rows to look at anew.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from orchestrator.schema import Capacity, Demand, FreeDevice, Node, Placement, Request

SHARE_UNITS = 1_000_000
_MILLI = 1_000
# A node that doesn't say how many cores or how much memory it has is no limit to anybody.
NO_LIMIT = 2**60
# So many changed rows are remembered; who looks more seldom looks at all rows anew.
_REMEMBERED = 100_000

Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]
Rows = slice | list[int] | npt.NDArray[np.intp]
ALL_ROWS = slice(None)
Spot = tuple[tuple[int, tuple[int, ...]], ...]


def share_units(share: float) -> int:
    """A share in whole units, rounded down: ten of 0.1 and three of 1/3 fill a device."""
    return int(share * SHARE_UNITS + 1e-3)


def milli_cpus(cpus: float) -> int:
    """Cores in thousandths."""
    return round(cpus * _MILLI)


class Room:
    """What is left of a set of nodes. Policies read the arrays and change them through `place` only, inside `attempt`.

    share, memory_bytes, residents, model, kinds: int64 arrays [nodes, widest]. `share` is what is free in SHARE_UNITS,
    -1 where there is no device; `model` is a code, see `model_code`; `kinds` are the kinds of work that sit there, as
    bits of `kind_bit`; `conflicts` says which may not sit beside which, see `bar`, and `excess` which slow each other
    down, see `know`. `sizes`, int64 [nodes, widest + 1],
    counts who sits on a node by how many devices they hold: column 0 those with a part of one device, column k those
    with k devices. milli_cpus, host_memory_bytes: what is free, int64 [nodes]. whole_milli_cpus,
    whole_host_memory_bytes, whole_memory_bytes: what there is when nobody sits there.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = tuple(sorted(nodes, key=lambda node: node.node_id))
        self.devices = [sorted(node.devices, key=lambda device: device.index) for node in self.nodes]
        shape = len(self.nodes), max(map(len, self.devices), default=0)
        self.row_of = {node.node_id: row for row, node in enumerate(self.nodes)}
        self.cell_of = {d.device_id: (r, c) for r, devices in enumerate(self.devices) for c, d in enumerate(devices)}
        self.exists: Mask = np.zeros(shape, np.bool_)
        self.share: Counts = np.full(shape, -1, np.int64)
        self.memory_bytes: Counts = np.full(shape, -1, np.int64)
        self.residents: Counts = np.zeros(shape, np.int64)
        self.kinds: Counts = np.zeros(shape, np.int64)
        self.model: Counts = np.full(shape, -1, np.int64)
        self.sizes: Counts = np.zeros((shape[0], shape[1] + 1), np.int64)
        self._models: dict[str, int] = {}
        for (row, column), device in ((self.cell_of[d.device_id], d) for ds in self.devices for d in ds):
            self.exists[row, column] = True
            self.share[row, column], self.memory_bytes[row, column] = SHARE_UNITS, device.memory_bytes
            self.model[row, column] = self._models.setdefault(device.model, len(self._models))
        self.whole_memory_bytes = self.memory_bytes.copy()
        self.milli_cpus: Counts = np.array([milli_cpus(n.cpus) or NO_LIMIT for n in self.nodes], np.int64)
        self.host_memory_bytes: Counts = np.array([n.host_memory_bytes or NO_LIMIT for n in self.nodes], np.int64)
        self.whole_milli_cpus, self.whole_host_memory_bytes = self.milli_cpus.copy(), self.host_memory_bytes.copy()
        self.device_count = len(self.cell_of)
        self.cache: dict[Hashable, Any] = {}
        self.revision = 0
        self._changed: list[int] = []
        self._forgotten = 0
        self._bits: dict[str, int] = {}
        self._sitting: dict[tuple[int, int], list[str]] = {}
        # By kind, the bits of the kinds that it may not sit beside.
        self._conflicts: dict[str, int] = {}
        self.conflicts: Mapping[str, Sequence[str]] = {}
        self.excess: Mapping[tuple[str, str], float] = {}
        self._attempted: list[tuple[Placement, str]] | None = None

    # --- questions ---------------------------------------------------------------------------------------------------

    def model_code(self, model: str) -> int:
        """The code of a device model in `model`; -2, which no device has, if there is none."""
        return self._models.get(model, -2)

    @property
    def models(self) -> tuple[str, ...]:
        """The device models that there are, by their codes."""
        return tuple(self._models)

    def size_of(self, devices: int, share: float) -> int:
        """The column in `sizes` of who holds so many devices, or this share of one."""
        return 0 if devices == 1 and share < 1 else min(devices, self.sizes.shape[1] - 1)

    def fitting(self, demand: Demand, rows: Rows = ALL_ROWS) -> Mask:
        """Which devices of `rows` fit one device's part of the demand: share, memory, model, and who sits there.

        What the node itself must have is `node_fits`.
        """
        fits: Mask = self.share[rows] >= max(1, share_units(demand.share))
        fits &= self.memory_bytes[rows] >= demand.memory_bytes
        if demand.models:
            fits &= np.isin(self.model[rows], [self.model_code(model) for model in demand.models])
        if barred := self._conflicts.get(demand.kind, 0):
            fits &= (self.kinds[rows] & barred) == 0
        return fits

    def node_fits(self, demand: Demand, rows: Rows = ALL_ROWS) -> Mask:
        """Which nodes of `rows` have the demand's cores and host memory, as if all of it came there."""
        fits: Mask = self.milli_cpus[rows] >= milli_cpus(demand.cpus)
        fits &= self.host_memory_bytes[rows] >= demand.host_memory_bytes
        return fits

    def fitting_nodes(self, demand: Demand, rows: Rows = ALL_ROWS) -> Mask:
        """Which nodes of `rows` fit the whole demand by themselves."""
        fits = self.node_fits(demand, rows)
        if demand.devices:
            fits &= self.fitting(demand, rows).sum(axis=1) >= demand.devices
        return fits

    def changed_since(self, revision: int) -> list[int] | None:
        """The rows that changed since the room was at `revision`, each once, in no order; None if that is too long
        ago and any row may have."""
        if revision < self._forgotten:
            return None
        changed = self._changed[revision - self._forgotten :]
        return changed if len(changed) < 2 else list(set(changed))

    def free(self) -> tuple[FreeDevice, ...]:
        """Device by device, by node and index."""
        found: tuple[int, tuple[FreeDevice, ...]] | None = self.cache.get("free")
        if found is None or found[0] != self.revision:
            found = self.revision, tuple(self._free(d.device_id) for devices in self.devices for d in devices)
            self.cache["free"] = found
        return found[1]

    def _free(self, device_id: str) -> FreeDevice:
        row, column = cell = self.cell_of[device_id]
        return FreeDevice(
            device=self.devices[row][column],
            free_share=self.share.item(cell) / SHARE_UNITS,
            free_memory_bytes=self.memory_bytes.item(cell),
            residents=self.residents.item(cell),
        )

    def capacity(self) -> Capacity:
        """What all nodes have together, empty."""
        return Capacity(
            devices=float(self.device_count),
            cpus=sum(node.cpus for node in self.nodes),
            host_memory_bytes=float(sum(node.host_memory_bytes for node in self.nodes)),
        )

    def copy(self) -> "Room":
        """A room of its own that is now as this one."""
        other = Room(self.nodes)
        for name in ("share", "memory_bytes", "residents", "kinds", "sizes", "milli_cpus", "host_memory_bytes"):
            getattr(other, name)[:] = getattr(self, name)
        other._bits, other._conflicts, other.conflicts = dict(self._bits), dict(self._conflicts), self.conflicts
        other.excess = self.excess
        other._sitting = {cell: list(kinds) for cell, kinds in self._sitting.items()}
        return other

    # --- changes -----------------------------------------------------------------------------------------------------

    def place(self, request: Request, spot: Spot, *, whole: bool = False) -> Placement:
        """Take the spot for the request and say so; with `whole`, its devices whole. Only inside `attempt`.

        A share of a device is that share of its memory, or what is asked for if that is more.
        """
        assert self._attempted is not None, "a policy places inside an attempt: whoever asked it makes the placements"
        demand = request.demand
        share = 1.0 if whole else demand.share
        cells = [(row, column) for row, columns in spot for column in columns]
        granted = demand.memory_bytes
        if cells:
            in_share = min(int(share * self.whole_memory_bytes.item(cell)) for cell in cells)
            granted = max(granted, min(in_share, *(self.memory_bytes.item(cell) for cell in cells)))
        rows = [row for row, _ in cells] or [spot[0][0]]
        placement = Placement(
            stage_key=request.stage_key,
            device_ids=tuple(self.devices[row][column].device_id for row, column in cells),
            share=share,
            memory_bytes=granted,
            node_ids=tuple(self.nodes[row].node_id for row in rows),
            cpus=demand.cpus,
            host_memory_bytes=demand.host_memory_bytes,
            phases=demand.phases,
            away_bytes=demand.away_bytes,
        )
        self.take(placement, demand.kind)
        self._attempted.append((placement, demand.kind))
        return placement

    def take(self, placement: Placement, kind: str = "") -> None:
        """A bundle sits down. Devices and nodes that are not here are passed over."""
        self._change(placement, kind, 1)

    def give_back(self, placement: Placement, kind: str = "") -> None:
        """A bundle that sat down gets up."""
        self._change(placement, kind, -1)

    def _change(self, placement: Placement, kind: str, sign: int) -> None:
        share, memory_bytes = sign * share_units(placement.share), sign * placement.memory_bytes
        for device_id in placement.device_ids:
            if (cell := self.cell_of.get(device_id)) is not None:
                self.share[cell] -= share
                self.memory_bytes[cell] -= memory_bytes
                self.residents[cell] += sign
                if kind:
                    self._sit(cell, kind, sign)
        node_ids = placement.node_ids or tuple(
            self.nodes[self.cell_of[d][0]].node_id for d in placement.device_ids if d in self.cell_of
        )
        self._change_nodes(placement, node_ids, sign)

    def _change_nodes(self, placement: Placement, node_ids: Sequence[str], sign: int) -> None:
        """Of each node in proportion to the devices there, rounded so that no node gives a unit more than its part
        rounded up and all give what is asked for together."""
        cpus, memory_bytes, all_nodes = milli_cpus(placement.cpus), placement.host_memory_bytes, len(node_ids)
        held = len(placement.device_ids)
        size = self.size_of(held, placement.share)
        counts: dict[str, int] = {}
        for node_id in node_ids:
            counts[node_id] = counts.get(node_id, 0) + 1
        before = 0
        for node_id, count in counts.items():
            upto = before + count
            if (row := self.row_of.get(node_id)) is not None:
                self.milli_cpus[row] -= sign * (cpus * upto // all_nodes - cpus * before // all_nodes)
                memory = memory_bytes * upto // all_nodes - memory_bytes * before // all_nodes
                self.host_memory_bytes[row] -= sign * memory
                if held:
                    self.sizes[row, size] += sign
                self._changed.append(row)
                self.revision += 1
            before = upto
        if len(self._changed) > 2 * _REMEMBERED:
            self._forgotten += len(self._changed) - _REMEMBERED
            del self._changed[:-_REMEMBERED]

    def _sit(self, cell: tuple[int, int], kind: str, sign: int) -> None:
        sitting = self._sitting.setdefault(cell, [])
        sitting.append(kind) if sign > 0 else sitting.remove(kind)
        self.kinds[cell] = sum(self.kind_bit(k) for k in set(sitting))

    def kind_bit(self, kind: str) -> int:
        """The bit of a kind of work in `kinds`; the 62nd and later ones share one."""
        if kind not in self._bits:
            self._bits[kind] = 1 << min(len(self._bits), 61)
        return self._bits[kind]

    def bar(self, conflicts: Mapping[str, Sequence[str]]) -> None:
        """From now on no request of a kind fits on a device where one of these kinds sits, until said otherwise."""
        barred = {kind: sum({self.kind_bit(other) for other in others}) for kind, others in conflicts.items()}
        if barred != self._conflicts:
            self._conflicts, self.conflicts = barred, conflicts
            self._forgotten, self.revision = self.revision + 1, self.revision + 1
            self._changed.clear()

    def know(self, excess: Mapping[tuple[str, str], float]) -> None:
        """From now on `excess` says, by (kind, kind beside it), how much longer steps take beside one of equal share,
        in parts of a step alone; of pairs that are not in it nothing is known."""
        if excess != self.excess:
            self.excess = excess
            self._forgotten, self.revision = self.revision + 1, self.revision + 1
            self._changed.clear()

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """What is placed inside is undone at the end. Placements are made by whoever asked the policy."""
        assert self._attempted is None, "an attempt inside an attempt"
        placed = self._attempted = []
        try:
            yield
        finally:
            self._attempted = None
            for placement, kind in reversed(placed):
                self.give_back(placement, kind)
