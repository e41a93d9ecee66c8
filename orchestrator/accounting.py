"""Who pays for the seats that nobody takes. Pure: lines of the ledger in, device-seconds out.

The ledger is the truth about seats: each member of a stack holds its own, from its placement to its end. But the
program goes on until its last member has left, and what a member has left of the device while nobody took it is paid
for by those who are still in the program: in equal parts, for as long as it lasts.

A stack's *slice* is the most that its members have held of the device at once so far. *Vacated* of it, at any instant,
is what its members don't hold now, as far as the device has it free: others who sit down there take first what no stack
ever had, then what stacks have left, of each in proportion. So what is held and what is vacated of a device are never
more than the device.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from orchestrator.schema import NO_CHARGE, Allocation, Charge, Trial

_NOTHING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Seat:
    """What came to one member of a stack: vacated device-seconds, and the most members there were by its end."""

    vacated_s: float
    width: int


def seats(lines: Iterable[Allocation], now: float) -> dict[str, Seat]:
    """Of every member of a stack among `lines`, by bundle id, up to `now` [s since the epoch].

    `lines` must have all that held a part of the stacks' devices while they ran, in any order (see `about`); what
    happened later changes nothing. O(n log n) for n lines, times the few stacks that share one device.
    """
    on_device: dict[str, list[Allocation]] = defaultdict(list)
    for line in lines:
        for device_id in line.device_ids:
            on_device[device_id].append(line)
    found: dict[str, Seat] = {}
    for held in on_device.values():
        if any(line.stack_id for line in held):
            found |= _Device(held, now).seats()
    return found


def came_among(lines: Iterable[Allocation]) -> dict[str, int]:
    """How many its stack had when each member came, itself and those that came at once included, by bundle id."""
    stacks: dict[str, list[Allocation]] = defaultdict(list)
    for line in lines:
        if line.stack_id:
            stacks[line.stack_id].append(line)
    found: dict[str, int] = {}
    for members in stacks.values():
        came, went = sorted(line.opened_at for line in members), sorted(map(_end, members))
        for line in members:
            found[line.bundle_id] = bisect_right(came, line.opened_at) - bisect_right(went, line.opened_at)
    return found


def charges(lines: Iterable[Allocation], found: Mapping[str, Seat], now: float) -> dict[str, Charge]:
    """By trial id, of those that have been in a stack. As in the ledger a trial is charged when a line is closed, here
    until `now` [s since the epoch], and the line is split among those that waited for its stage.

    `found`: what `seats` says of the lines, up to `now` or later.
    """
    of_trial: dict[str, Charge] = {}
    closed = (line for line in lines if line.bundle_id in found and _end(line) <= now)
    for line in sorted(closed, key=lambda line: (line.opened_at, line.bundle_id)):
        seat = found[line.bundle_id]
        for trial_id in line.trial_ids:
            before = of_trial.get(trial_id, NO_CHARGE)
            of_trial[trial_id] = Charge(
                vacated_s=before.vacated_s + seat.vacated_s / len(line.trial_ids),
                fused_s=before.fused_s + (line.device_seconds(now) + seat.vacated_s) / len(line.trial_ids),
                stack_ids=tuple(dict.fromkeys((*before.stack_ids, line.stack_id))),
                width=max(before.width, seat.width),
            )
    return of_trial


def charged(trial: Trial, charge: Charge) -> Trial:
    """The trial with what it pays of vacated seats among its device-seconds."""
    return replace(trial, gpu_seconds=trial.gpu_seconds + charge.vacated_s)


def about(study_id: str, lines: Iterable[Allocation]) -> list[Allocation]:
    """Those of `lines` that say what a study held and what its stacks left: its own, and whatever held a part of the
    device of one of its stacks while that ran. In the order of `lines`."""
    all_lines = list(lines)
    stack_ids = {line.stack_id for line in all_lines if line.study_id == study_id and line.stack_id}
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in all_lines:
        if line.stack_id in stack_ids:
            spans[line.device_ids[0]].append((line.opened_at, _end(line)))
    merged = {device_id: _merged(found) for device_id, found in spans.items()}
    return [
        line
        for line in all_lines
        if line.study_id == study_id
        or any(_meets(line, merged[device_id]) for device_id in line.device_ids if device_id in merged)
    ]


def own_and_beside(study_id: str, lines: Iterable[Allocation]) -> tuple[list[Allocation], list[Allocation]]:
    """What the study held, and what others did, of what `about` gives."""
    own: list[Allocation] = []
    beside: list[Allocation] = []
    for line in lines:
        (own if line.study_id == study_id else beside).append(line)
    return own, beside


def _end(line: Allocation) -> float:
    return float("inf") if line.closed_at is None else line.closed_at


def _merged(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """In order of time, and apart from each other. Somebody is in a stack as long as it runs, so its span is whole."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged


def _meets(line: Allocation, spans: Sequence[tuple[float, float]]) -> bool:
    """Whether the line was open in one of `spans`, which are in order and apart."""
    nearest = bisect_left(spans, _end(line), key=lambda span: span[0]) - 1
    return nearest >= 0 and spans[nearest][1] > line.opened_at


@dataclass(slots=True)
class _Stack:
    """`per_member_s`: what a member that was there from the start would be charged by now."""

    members: int = 0
    held: float = 0.0
    slice: float = 0.0
    widest: int = 0
    per_member_s: float = 0.0

    @property
    def left(self) -> float:
        left = self.slice - self.held
        return left if left > _NOTHING else 0.0


class _Device:
    """One sweep over what happened on a device, in order of time."""

    def __init__(self, lines: Sequence[Allocation], now: float) -> None:
        self._lines = [(line, min(_end(line), now)) for line in lines]
        self._held = 0.0
        self._stacks: dict[str, _Stack] = defaultdict(_Stack)
        # By bundle, what its stack's members had been charged when it came.
        self._came: dict[str, float] = {}
        self._found: dict[str, Seat] = {}

    def seats(self) -> dict[str, Seat]:
        changes = [
            change
            for index, (line, end) in enumerate(self._lines)
            if end > line.opened_at
            for change in ((end, 0, index), (line.opened_at, 1, index))
        ]
        at = 0.0
        # At equal times whoever leaves goes first: its seat is free for whoever comes.
        for then, comes, index in sorted(changes):
            if then > at:
                self._pass(then - at)
                at = then
            line = self._lines[index][0]
            self._come(line) if comes else self._go(line)
        return self._found

    def _pass(self, seconds: float) -> None:
        left = sum(stack.left for stack in self._stacks.values())
        free = 1.0 - self._held
        if left <= 0.0 or free <= _NOTHING:
            return
        part = min(1.0, free / left)
        for stack in self._stacks.values():
            stack.per_member_s += stack.left * part * seconds / stack.members

    def _come(self, line: Allocation) -> None:
        self._held += line.share
        if not line.stack_id:
            return
        stack = self._stacks[line.stack_id]
        stack.members += 1
        stack.held += line.share
        stack.slice = max(stack.slice, stack.held)
        stack.widest = max(stack.widest, stack.members)
        self._came[line.bundle_id] = stack.per_member_s

    def _go(self, line: Allocation) -> None:
        self._held -= line.share
        if not line.stack_id:
            return
        stack = self._stacks[line.stack_id]
        stack.members -= 1
        stack.held -= line.share
        vacated_s = stack.per_member_s - self._came.pop(line.bundle_id)
        self._found[line.bundle_id] = Seat(vacated_s=vacated_s, width=stack.widest)
        # Its program ends with its last member.
        if not stack.members:
            del self._stacks[line.stack_id]
