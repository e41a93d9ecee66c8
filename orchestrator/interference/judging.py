"""What follows from measured slowdowns: which kinds of work may not share a device, and who leaves.

Two kinds are *barred* from each other if, over enough slices, either is slower beside the other than its trials allow,
or both together get through less than one after the other. A kind that nobody has seen beside another is tried beside
it: it could not be learned otherwise. A bar ends after a while and what it went by is forgotten, so that one bad
measurement is not for ever; one that is confirmed lasts twice as long the next time.

Where the queue never ends nobody is ever alone, and what nobody knows alone is compared with nothing. So once two have
sat together for a while, the younger leaves for a moment and nobody comes in its place, until the elder's pace alone is
known; once for stages of one shape.

Nothing of this is stored: a new leader learns it again.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.interference.company import Companies, Seat
from orchestrator.interference.model import SIGMAS, Slowdown, SlowdownModel
from orchestrator.schema import Resident

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When evidence is enough. A slice takes `slice_s` at least. Both sides of a pair must have been seen for
    `least_slices` beside each other, and sharing must lose at least the part `margin`, certainly (at 95 %) something.
    A bar lasts `retry_s`, at most `longest_retry_s`. Who is about to end within `least_left_s` is left to it. Who sits
    beside others for `apart_after_s` without being known alone is set apart, for `apart_slices` slices or four times
    as long as those took beside the others."""

    slice_s: float = 2.0
    least_slices: int = 5
    margin: float = 0.05
    judge_every_s: float = 2.0
    retry_s: float = 1800.0
    longest_retry_s: float = 86_400.0
    least_left_s: float = 10.0
    apart_after_s: float = 60.0
    apart_slices: int = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """Two kinds (sorted, perhaps the same one twice) that may not share a device until `until` [s since the epoch]. If
    `device_ids` are named, those who share another one already stay there."""

    kinds: Pair
    reason: str
    since: float
    until: float
    device_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Together:
    """What two kinds do to each other, at the shares that they were seen with most. `throughput`: what both get through
    in the time in which one after the other would get through 1."""

    kinds: Pair
    shares: tuple[float, float]
    slowdowns: tuple[Slowdown, Slowdown]
    throughput: float
    throughput_low: float
    throughput_high: float


@dataclass(frozen=True, slots=True)
class _Apart:
    """Who is set apart, and by which bar."""

    kind: str
    pair: Pair
    unit: Hashable


class Interference:
    """Bundles on their devices, what was learned of them, and the bars that follow."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self.model = SlowdownModel()
        self._companies = Companies(self.rules.slice_s)
        self._bars: dict[Pair, Bar] = {}
        self._times: dict[Pair, int] = {}
        self._apart: _Apart | None = None
        self._set_apart: set[Hashable] = set()
        self._kinds: dict[str, None] = {}
        self._judged_at = float("-inf")
        self._judged = 0

    def sit(self, bundle_id: str, seat: Seat) -> None:
        """A bundle sits down."""
        self._kinds[seat.kind] = None
        self._companies.sit(bundle_id, seat)

    def leave(self, bundle_id: str) -> None:
        """A bundle gets up."""
        self._companies.leave(bundle_id)

    def report(self, bundle_id: str, unit: Hashable, steps: float, at: float) -> None:
        """A bundle has done so many steps in all. `unit`: see `Slice`."""
        found = self._companies.report(bundle_id, unit, steps, at)
        if found is not None:
            self.model.observe(found)

    @property
    def bars(self) -> tuple[Bar, ...]:
        """Those that hold, by their kinds."""
        return tuple(self._bars[pair] for pair in sorted(self._bars))

    @property
    def judged(self) -> tuple[int, float]:
        """Changes whenever it was judged."""
        return self._judged, self._judged_at

    def conflicts(self) -> dict[str, tuple[str, ...]]:
        """By kind, the kinds that it may not sit beside."""
        found: dict[str, set[str]] = {}
        for one, other in self._bars:
            found.setdefault(one, set()).add(other)
            found.setdefault(other, set()).add(one)
        if self._apart is not None:
            for kind in self._kinds:
                found.setdefault(kind, set()).add(self._apart.kind)
                found.setdefault(self._apart.kind, set()).add(kind)
        return {kind: tuple(sorted(others)) for kind, others in sorted(found.items())}

    def due(self, at: float) -> bool:
        """Whether `judge` has something to look at, not more often than the rules say."""
        lapsed = any(bar.until <= at for bar in self._bars.values())
        news = self.model.revision != self._judged
        return (news or lapsed) and at - self._judged_at >= self.rules.judge_every_s

    def judge(self, caps: Mapping[str, float], at: float) -> bool:
        """Bar and let go, by the strictest slowdown that each kind allows (`caps`, none is any); whether that changed
        anything."""
        before = self.conflicts()
        self._end_apart(at)
        for pair, bar in list(self._bars.items()):
            if bar.until <= at:
                del self._bars[pair]
                self.model.forget(*pair)
        self._judged_at, self._judged = at, self.model.revision
        for together in self.table():
            if together.kinds not in self._bars and (reason := self._why_barred(together, caps)):
                self._bar(together.kinds, reason, at)
        if self._apart is None:
            self._begin_apart(at)
        return self.conflicts() != before

    def excess(self) -> dict[Pair, float]:
        """By (kind, kind beside it), how much longer its steps take beside one of equal share, in parts of a step
        alone, to the tenth; of pairs of which both sides were seen often enough."""
        least, found = self.rules.least_slices, {}
        for together in self.table():
            if min(slowdown.slices for slowdown in together.slowdowns) >= least:
                for kind, beside in (together.kinds, together.kinds[::-1]):
                    found[kind, beside] = round(self.model.slowdown(kind, 1.0, [(beside, 1.0)]).mean - 1.0, 1)
        return found

    def table(self) -> list[Together]:
        """Every pair of kinds that was seen on one device."""
        return [self._together(pair, shares) for pair, shares in self.model.seen_together().items()]

    def _bar(self, pair: Pair, reason: str, at: float) -> None:
        times = self._times.get(pair, 0)
        self._times[pair] = times + 1
        lasts_s = min(self.rules.longest_retry_s, self.rules.retry_s * 2.0**times)
        self._bars[pair] = Bar(kinds=pair, reason=reason, since=at, until=at + lasts_s)

    def _begin_apart(self, at: float) -> None:
        """Set one apart that was never seen alone, if it has sat beside others for long enough."""
        rules = self.rules
        for stay in self._companies.elders():
            enough = stay.slices >= rules.least_slices and stay.seconds >= rules.apart_after_s
            if not enough or stay.unit in self._set_apart or self.model.alone_slices(stay.unit):
                continue
            first, *others = sorted({stay.seat.kind, *(kind for kind, _ in stay.neighbours)})
            pair = (first, others[0] if others else first)
            if len(others) > 1 or pair in self._bars:
                continue
            self._set_apart.add(stay.unit)
            self._apart = _Apart(stay.seat.kind, pair, stay.unit)
            lasts_s = 4 * rules.apart_slices * max(rules.slice_s, stay.seconds / stay.slices)
            reason = f"{stay.seat.kind} has to be measured alone for a moment, to know what sharing costs it"
            self._bars[pair] = Bar(
                kinds=pair, reason=reason, since=at, until=at + lasts_s, device_ids=stay.seat.device_ids
            )
            return

    def _end_apart(self, at: float) -> None:
        """Once the pace alone is known, or it takes too long."""
        if self._apart is None:
            return
        known = self.model.alone_slices(self._apart.unit) >= self.rules.apart_slices
        if known or self._bars[self._apart.pair].until <= at:
            del self._bars[self._apart.pair]
            self._apart = None

    def _together(self, pair: Pair, shares: tuple[float, float]) -> Together:
        (one, other), (share, other_share) = pair, shares
        first = self.model.slowdown(one, share, [(other, other_share)])
        second = self.model.slowdown(other, other_share, [(one, share)])
        parts = [slowdown.deviation / slowdown.mean**2 for slowdown in (first, second)]
        # Of one kind with itself both sides are the same number, so that their errors add up.
        deviation = sum(parts) if one == other else (parts[0] ** 2 + parts[1] ** 2) ** 0.5
        throughput = 1.0 / first.mean + 1.0 / second.mean
        return Together(
            kinds=pair,
            shares=shares,
            slowdowns=(first, second),
            throughput=throughput,
            throughput_low=throughput - SIGMAS * deviation,
            throughput_high=throughput + SIGMAS * deviation,
        )

    def _why_barred(self, together: Together, caps: Mapping[str, float]) -> str:
        """ "" if there is not enough evidence, or nothing against it."""
        (one, other), rules = together.kinds, self.rules
        for kind, beside, slowdown in zip((one, other), (other, one), together.slowdowns, strict=True):
            cap = caps.get(kind, 0.0)
            if cap and slowdown.slices >= rules.least_slices and slowdown.mean > cap:
                return (
                    f"{kind} beside {beside} takes {slowdown.mean:.2f} times as long as alone ({_interval(slowdown)}), "
                    f"more than cluster.max_slowdown_per_trial={cap:g}"
                )
        enough = min(slowdown.slices for slowdown in together.slowdowns) >= rules.least_slices
        if enough and together.throughput <= 1.0 - rules.margin and together.throughput_high < 1.0:
            slices = sum(slowdown.slices for slowdown in together.slowdowns)
            return (
                f"{one} and {other} on one device get through {together.throughput:.2f} of what one after the other "
                f"would (95 %: {together.throughput_low:.2f} to {together.throughput_high:.2f}, {slices} intervals)"
            )
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undoing:
    """This bundle shall leave the device that it shares with one of a kind it is barred from."""

    bundle_id: str
    reason: str


def undone(bars: Sequence[Bar], residents: Sequence[Resident], at: float, rules: Rules) -> list[Undoing]:
    """Of every two residents whose kinds are barred from each other and that share a device, the younger leaves; ties:
    the one with the larger id. Nobody does where either leaves anyway, or is expected to end shortly."""
    barred = {bar.kinds: bar for bar in bars}
    if not barred:
        return []
    staying: dict[str, list[Resident]] = {}
    found: list[Undoing] = []
    for resident in sorted(residents, key=lambda r: (r.opened_at, r.bundle_id)):
        end_at = resident.expected_end_at
        if resident.stopping or (end_at is not None and end_at - at < rules.least_left_s):
            continue
        beside = [(d, r) for d in resident.placement.device_ids for r in staying.get(d, ())]
        bars_broken = (_between(barred, resident, other, device_id) for device_id, other in beside)
        bar = next((bar for bar in bars_broken if bar is not None), None)
        if bar is not None:
            reason = f"sharing is undone: {bar.reason}"
            found.append(Undoing(bundle_id=resident.bundle_id, reason=reason))
            continue
        for device_id in resident.placement.device_ids:
            staying.setdefault(device_id, []).append(resident)
    return found


def _between(barred: Mapping[Pair, Bar], one: Resident, other: Resident, device_id: str) -> Bar | None:
    first, second = sorted((one.request.demand.kind, other.request.demand.kind))
    bar = barred.get((first, second))
    return bar if bar is not None and (not bar.device_ids or device_id in bar.device_ids) else None


def _interval(slowdown: Slowdown) -> str:
    return f"95 %: {slowdown.low:.2f} to {slowdown.high:.2f}, {slowdown.slices} intervals"
