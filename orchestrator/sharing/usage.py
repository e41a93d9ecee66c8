"""What tenants hold and have used, from the intervals in which they held it.

*Used* is in resource-seconds that halve in worth every half-life: an amount `a` held from `s` to `e` counts, at `t`,
as the integral of a * 2^(-(t - x) / half_life) over x from s to e. It is integrated in closed form, so the result does
not depend on when, or how often, anybody asked.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.schema import Capacity


@dataclass(frozen=True, slots=True)
class _Hold:
    tenant: str
    amounts: Capacity
    opened_at: float


class DecayedUsage:
    """Intervals are opened and closed by key; those that are open count as held, all of them as used.

    half_life_s: after that time [s] use counts half. Events may come in any order of time; `used` is asked for at or
    after the last close.
    """

    def __init__(self, half_life_s: float) -> None:
        self._worth_s = half_life_s / math.log(2)
        self._open: dict[str, dict[str, _Hold]] = {}
        self._tenant_of: dict[str, str] = {}
        # Closed intervals by tenant: what they were worth at the time given with them.
        self._closed: dict[str, tuple[Capacity, float]] = {}

    def open(self, key: str, tenant: str, amounts: Capacity, at: float) -> None:
        """`tenant` holds `amounts` from `at` [s since the epoch] on. Raises ValueError if `key` is open."""
        if key in self._tenant_of:
            raise ValueError(f"{key} is open already, for tenant {self._tenant_of[key]}")
        self._tenant_of[key] = tenant
        self._open.setdefault(tenant, {})[key] = _Hold(tenant, amounts, at)
        self._closed.setdefault(tenant, (Capacity(), at))

    def close(self, key: str, at: float) -> None:
        """The interval ends. Raises KeyError if it isn't open."""
        tenant = self._tenant_of.pop(key)
        hold = self._open[tenant].pop(key)
        total, as_of = self._closed[tenant]
        now = max(as_of, at)
        ended = _times(hold.amounts, self._integral_s(hold.opened_at, at) * self._decay(now - at))
        self._closed[tenant] = _sum((_times(total, self._decay(now - as_of)), ended)), now

    def held(self, tenant: str) -> Capacity:
        """What the tenant holds now."""
        return _sum(hold.amounts for hold in self._open.get(tenant, {}).values())

    def used(self, tenant: str, at: float) -> Capacity:
        """What the tenant has used, as it counts at `at` [resource-seconds]; what it still holds up to then."""
        if tenant not in self._closed:
            return Capacity()
        total, as_of = self._closed[tenant]
        running = (_times(h.amounts, self._integral_s(h.opened_at, at)) for h in self._open[tenant].values())
        return _sum((_times(total, self._decay(at - as_of)), *running))

    def tenants(self) -> tuple[str, ...]:
        """All that ever held anything, by name."""
        return tuple(sorted(self._closed))

    def _decay(self, age_s: float) -> float:
        return math.exp(-max(0.0, age_s) / self._worth_s)

    def _integral_s(self, opened_at: float, at: float) -> float:
        """One unit held from `opened_at` to `at`, as it counts at `at` [s]: worth * (1 - decay), without the loss of
        digits that a short interval would bring."""
        return -self._worth_s * math.expm1(-max(0.0, at - opened_at) / self._worth_s)


def _times(amounts: Capacity, factor: float) -> Capacity:
    return Capacity(
        devices=amounts.devices * factor,
        cpus=amounts.cpus * factor,
        host_memory_bytes=amounts.host_memory_bytes * factor,
    )


def _sum(parts: Iterable[Capacity]) -> Capacity:
    amounts = tuple(parts)
    return Capacity(
        devices=math.fsum(part.devices for part in amounts),
        cpus=math.fsum(part.cpus for part in amounts),
        host_memory_bytes=math.fsum(part.host_memory_bytes for part in amounts),
    )
