"""What programs that are kept in antiphase ask for, and whom they may not sit beside.

Words: a program that does one thing in turn with another (`rollout`, `learn`) has *phases*; gates on its device let at
most one program at a time into each of them. Two programs are *complementary* if they can be in different phases. One
that *parks* has in host memory, but while it learns, what it needs for that only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

from orchestrator.schema import Demand

LEAST_SHARE = 0.5
"""The least share of a program with phases: there are two phases to be in, and a third program would only wait."""

Conflicts = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class _Kind:
    phases: tuple[str, ...]
    parks: bool


class Antiphase:
    """Remembers the kinds that have asked, each with its phases. A kind says what a program does to its neighbours, so
    what takes turns is of another kind than the same stage that doesn't."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Kind] = {}

    def taking_turns(self, demand: Demand) -> Demand:
        """What a stage asks for whose share of one device leaves room for another: its kind says so, and it has at
        least half of the device. Any other stage has no phases."""
        if not demand.phases or not demand.kind or demand.devices != 1 or demand.share >= 1.0:
            return replace(demand, phases=(), parkable_bytes=0)
        return replace(demand, kind=f"{demand.kind} in antiphase", share=max(LEAST_SHARE, demand.share))

    def parking(self, demand: Demand, device_bytes: int) -> Demand:
        """The demand of a program that parks, on devices that all have so much memory, if that is what lets a second
        one like it in: there is not enough for both to learn, but for one to learn while the other doesn't. It asks for
        half of a device; what is beyond that is taken by whoever learns. Otherwise the demand as it is."""
        needed = demand.memory_bytes
        alternates = len(set(demand.phases)) > 1
        if not alternates or not 2 * needed > device_bytes >= 2 * needed - min(needed, demand.parkable_bytes):
            return demand
        return replace(
            demand,
            kind=f"{demand.kind}, parked ({needed / 2**30:.3f} GiB)",
            memory_bytes=device_bytes // 2,
            parkable_bytes=0,
            away_bytes=needed - device_bytes // 2,
        )

    def know(self, demand: Demand) -> bool:
        """Whether the kind of what is asked for is a new one."""
        known = len(self._kinds)
        if demand.kind:
            self._kinds.setdefault(demand.kind, _Kind(demand.phases, demand.away_bytes > 0))
        return len(self._kinds) > known

    def conflicts(self) -> dict[str, tuple[str, ...]]:
        """By kind, the kinds that it may not sit beside: those it would only wait for, and beside one that parks any
        but its own, whose learning is all that there is room for."""
        found: dict[str, set[str]] = {}
        for one, other in combinations_with_replacement(self._kinds, 2):
            if self._apart(one, other):
                found.setdefault(one, set()).add(other)
                found.setdefault(other, set()).add(one)
        return {kind: tuple(sorted(others)) for kind, others in sorted(found.items())}

    def _apart(self, one: str, other: str) -> bool:
        first, second = self._kinds[one], self._kinds[other]
        if (first.parks or second.parks) and one != other:
            return True
        return bool(first.phases and second.phases) and not complementary(first.phases, second.phases)


def complementary(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two programs with these phases can be in different ones at the same time."""
    return any(first != second for first in one for second in other)


def merged(one: Conflicts, other: Conflicts) -> dict[str, tuple[str, ...]]:
    """Both."""
    kinds = sorted({*one, *other})
    return {kind: tuple(sorted({*one.get(kind, ()), *other.get(kind, ())})) for kind in kinds}
