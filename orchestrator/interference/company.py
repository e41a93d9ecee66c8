"""Who sits beside whom, and how fast each one goes meanwhile.

A bundle's *neighbours* are the kinds and shares of the others on its device; of a gang on several devices, those on the
one where others hold the most. A *slice* is a stretch between two of a bundle's reports in which its neighbours stayed
the same. What lies between the last report before a change and the first one behind it belongs to no slice, so that no
pace is a mixture.
"""

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace

Neighbours = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """What a bundle does, and where since when [s since the epoch]."""

    kind: str
    share: float
    device_ids: tuple[str, ...]
    since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """`steps` in `seconds`, beside `neighbours`, up to the time `at`.
    Bundles of one `unit` take as long for a step, alone."""

    unit: Hashable
    kind: str
    share: float
    neighbours: Neighbours
    steps: float
    seconds: float
    at: float


@dataclass(slots=True)
class _Sitting:
    seat: Seat
    neighbours: Neighbours = ()
    # Since the neighbours are the same: the first report, the one that the slice begins with, the last one, each as
    # (at, steps), and how many slices there were.
    met: tuple[float, float] | None = None
    first: tuple[float, float] | None = None
    last: tuple[float, float] | None = None
    slices: int = 0
    unit: Hashable = None

    def begin(self, report: tuple[float, float] | None) -> None:
        """Anew, with this report, or with the next one."""
        self.met = self.first = self.last = report
        self.slices = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """A bundle that has sat on its device before its neighbours did: `slices` in `seconds` beside them so far."""

    bundle_id: str
    unit: Hashable
    seat: Seat
    neighbours: Neighbours
    slices: int
    seconds: float


class Companies:
    """Bundles on their devices. Slices take at least `slice_s`."""

    def __init__(self, slice_s: float) -> None:
        self._slice_s = slice_s
        self._sitting: dict[str, _Sitting] = {}
        self._on_device: dict[str, dict[str, None]] = {}

    def sit(self, bundle_id: str, seat: Seat) -> None:
        """A bundle sits down."""
        self._sitting[bundle_id] = _Sitting(seat)
        shared = False
        for device_id in seat.device_ids:
            there = self._on_device.setdefault(device_id, {})
            shared = shared or bool(there)
            there[bundle_id] = None
        if shared:
            self._meet(seat.device_ids)

    def leave(self, bundle_id: str) -> None:
        """A bundle gets up; one that doesn't sit anywhere is fine."""
        sitting = self._sitting.pop(bundle_id, None)
        if sitting is None:
            return
        for device_id in sitting.seat.device_ids:
            del self._on_device[device_id][bundle_id]
            if not self._on_device[device_id]:
                del self._on_device[device_id]
        if sitting.neighbours:
            self._meet(sitting.seat.device_ids)

    def become(self, bundle_id: str, kind: str) -> None:
        """A bundle does something else from now on, such as another phase of the same stage."""
        sitting = self._sitting[bundle_id]
        sitting.seat = replace(sitting.seat, kind=kind)
        sitting.begin(None)
        self._meet(sitting.seat.device_ids)

    def report(self, bundle_id: str, unit: Hashable, steps: float, at: float) -> Slice | None:
        """A bundle says that it has done so many steps in all; the slice that ends with it, if one does.

        Steps that it has said before, of a run that went on from an older checkpoint, begin no slice.
        """
        sitting = self._sitting.get(bundle_id)
        if sitting is None:
            return None
        sitting.unit = unit
        if sitting.first is None or sitting.last is None or steps < sitting.last[1]:
            sitting.begin((at, steps))
            return None
        sitting.last = (at, steps)
        taken, seconds = steps - sitting.first[1], at - sitting.first[0]
        if taken <= 0.0 or seconds < self._slice_s:
            return None
        sitting.first = sitting.last
        sitting.slices += 1
        seat = sitting.seat
        return Slice(
            unit=unit,
            kind=seat.kind,
            share=seat.share,
            neighbours=sitting.neighbours,
            steps=taken,
            seconds=seconds,
            at=at,
        )

    def neighbours(self, bundle_id: str) -> Neighbours:
        """Sorted; () for a bundle that is alone."""
        return self._sitting[bundle_id].neighbours

    def elders(self) -> Iterator[Stay]:
        """Those with neighbours on their first device that all came later; ties: that have larger ids."""
        for bundle_id, sitting in self._sitting.items():
            if not sitting.neighbours or sitting.met is None or sitting.last is None:
                continue
            there = self._on_device[sitting.seat.device_ids[0]]
            if bundle_id == min(there, key=lambda other: (self._sitting[other].seat.since, other)):
                yield Stay(
                    bundle_id=bundle_id,
                    unit=sitting.unit,
                    seat=sitting.seat,
                    neighbours=sitting.neighbours,
                    slices=sitting.slices,
                    seconds=sitting.last[0] - sitting.met[0],
                )

    def _meet(self, device_ids: tuple[str, ...]) -> None:
        """Whoever sits on these devices looks who else does."""
        for bundle_id in {b: None for device_id in device_ids for b in self._on_device.get(device_id, ())}:
            sitting = self._sitting[bundle_id]
            neighbours = max(
                (self._beside(bundle_id, device_id) for device_id in sitting.seat.device_ids),
                key=lambda found: (sum(share for _, share in found), found),
            )
            if neighbours != sitting.neighbours:
                sitting.neighbours = neighbours
                sitting.begin(None)

    def _beside(self, bundle_id: str, device_id: str) -> Neighbours:
        others = (self._sitting[other].seat for other in self._on_device[device_id] if other != bundle_id)
        return tuple(sorted((seat.kind, seat.share) for seat in others))
