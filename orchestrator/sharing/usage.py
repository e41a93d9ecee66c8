"""What tenants hold and have used, from the intervals in which they held it.

*Used* is in resource-seconds that halve in worth every half-life: an amount `a` held from `s` to `e` counts, at `t`,
as the integral of a * 2^(-(t - x) / half_life) over x from s to e. It is integrated in closed form, so the result does
not depend on when, or how often, anybody asked. Of a tenant one sum is kept for all of its intervals: an interval that
is opened counts as open forever, and closing it takes back what would have followed.
"""

import math
from dataclasses import dataclass, field

from orchestrator.schema import Capacity


@dataclass(slots=True)
class _Amounts:
    """Amounts that change."""

    devices: float = 0.0
    cpus: float = 0.0
    host_memory_bytes: float = 0.0

    def add(self, amounts: "Capacity | _Amounts", factor: float) -> None:
        self.devices += amounts.devices * factor
        self.cpus += amounts.cpus * factor
        self.host_memory_bytes += amounts.host_memory_bytes * factor


@dataclass(slots=True)
class _Use:
    """What a tenant has used by the time `as_of`, and what it holds: in sum, and as the number of open intervals by
    what they hold, from which the sum of decimal fractions is made without drift when somebody asks."""

    as_of: float
    used: _Amounts = field(default_factory=_Amounts)
    rate: _Amounts = field(default_factory=_Amounts)
    holds: dict[Capacity, int] = field(default_factory=dict)

    def hold(self, amounts: Capacity, count: int) -> None:
        """One interval more, or less, is open."""
        self.rate.add(amounts, count)
        self.holds[amounts] = self.holds.get(amounts, 0) + count
        if not self.holds[amounts]:
            del self.holds[amounts]
        if not self.holds:
            self.rate = _Amounts()

    def held(self) -> Capacity:
        """All that is open."""
        return Capacity(
            devices=math.fsum(amounts.devices * count for amounts, count in self.holds.items()),
            cpus=math.fsum(amounts.cpus * count for amounts, count in self.holds.items()),
            host_memory_bytes=math.fsum(amounts.host_memory_bytes * count for amounts, count in self.holds.items()),
        )


class DecayedUsage:
    """Intervals are opened and closed by key; those that are open count as held, all of them as used.

    half_life_s: after that time [s] use counts half. Events may come in any order of time; `used` is asked for at or
    after the last of them.
    """

    def __init__(self, half_life_s: float) -> None:
        self._worth_s = half_life_s / math.log(2)
        self._open: dict[str, tuple[str, Capacity]] = {}
        self._uses: dict[str, _Use] = {}

    def open(self, key: str, tenant: str, amounts: Capacity, at: float) -> None:
        """`tenant` holds `amounts` from `at` [s since the epoch] on. Raises ValueError if `key` is open."""
        if key in self._open:
            raise ValueError(f"{key} is open already, for tenant {self._open[key][0]}")
        self._open[key] = tenant, amounts
        use = self._uses.get(tenant)
        if use is None:
            use = self._uses[tenant] = _Use(as_of=at)
        self._move_on(use, at)
        use.used.add(amounts, self._integral_s(use.as_of - at))
        use.hold(amounts, 1)

    def close(self, key: str, at: float) -> None:
        """The interval ends. Raises KeyError if it isn't open."""
        tenant, amounts = self._open.pop(key)
        use = self._uses[tenant]
        self._move_on(use, at)
        use.used.add(amounts, -self._integral_s(use.as_of - at))
        use.hold(amounts, -1)

    def held(self, tenant: str) -> Capacity:
        """What the tenant holds now."""
        return self._uses[tenant].held() if tenant in self._uses else Capacity()

    def used(self, tenant: str, at: float) -> Capacity:
        """What the tenant has used, as it counts at `at` [resource-seconds]; what it still holds up to then."""
        if tenant not in self._uses:
            return Capacity()
        use = self._uses[tenant]
        decay, since_s = self._decay(at - use.as_of), self._integral_s(at - use.as_of)
        return Capacity(
            devices=use.used.devices * decay + use.rate.devices * since_s,
            cpus=use.used.cpus * decay + use.rate.cpus * since_s,
            host_memory_bytes=use.used.host_memory_bytes * decay + use.rate.host_memory_bytes * since_s,
        )

    def tenants(self) -> tuple[str, ...]:
        """All that ever held anything, by name."""
        return tuple(sorted(self._uses))

    def _move_on(self, use: _Use, at: float) -> None:
        """Count up to `at`, if that is later than it was counted to."""
        if at > use.as_of:
            decay, since_s = self._decay(at - use.as_of), self._integral_s(at - use.as_of)
            before, use.used = use.used, _Amounts()
            use.used.add(before, decay)
            use.used.add(use.rate, since_s)
            use.as_of = at

    def _decay(self, age_s: float) -> float:
        return math.exp(-max(0.0, age_s) / self._worth_s)

    def _integral_s(self, span_s: float) -> float:
        """One unit held for `span_s`, as it counts at the end [s]: worth * (1 - decay), without the loss of digits that
        a short interval would bring."""
        return -self._worth_s * math.expm1(-max(0.0, span_s) / self._worth_s)
