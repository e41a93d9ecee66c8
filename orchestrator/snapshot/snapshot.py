"""Everything an ordering, sharing or packing policy may look at, at one moment."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from orchestrator.schema import Capacity, FreeDevice, Request, Resident, TenantUse
from orchestrator.snapshot.arrivals import Arrivals
from orchestrator.snapshot.room import Room


class Snapshot:
    """`room`, `queue` and `arrivals` may be the living ones, the rest is as of `at`; whoever keeps a snapshot beyond
    the cycle it was made for copies them. `queue` is in order of arrival. What costs something to say is asked for only
    once somebody looks: `residents` (bundles on their devices), `tenants` and `lowest_priority` may be functions.
    """

    def __init__(
        self,
        *,
        at: float,
        room: Room | None = None,
        queue: Sequence[Request] = (),
        residents: Sequence[Resident] | Callable[[], Sequence[Resident]] = (),
        tenants: Mapping[str, TenantUse] | Callable[[], Mapping[str, TenantUse]] | None = None,
        arrivals: Arrivals | None = None,
        capacity: Capacity | None = None,
        has_quotas: bool | None = None,
        lowest_priority: Callable[[], int | None] | None = None,
    ) -> None:
        self.at = at
        self.room = room or Room([])
        self.queue = queue
        self.arrivals = arrivals or Arrivals()
        self._residents = residents
        self._tenants = tenants or {}
        self._capacity = capacity
        self._has_quotas = has_quotas
        self._lowest_priority = lowest_priority

    @cached_property
    def residents(self) -> Sequence[Resident]:
        """Who sits where."""
        return self._residents() if callable(self._residents) else self._residents

    @cached_property
    def tenants(self) -> Mapping[str, TenantUse]:
        """What each tenant holds and has used, by name."""
        return self._tenants() if callable(self._tenants) else self._tenants

    @cached_property
    def has_quotas(self) -> bool:
        """Whether any tenant has a quota: without one nobody is held back and nothing is claimed back."""
        if self._has_quotas is not None:
            return self._has_quotas
        return any(use.tenant.quota is not None for use in self.tenants.values())

    @cached_property
    def lowest_priority(self) -> int | None:
        """The lowest priority of a resident; None without any."""
        if self._lowest_priority is not None:
            return self._lowest_priority()
        return min((resident.request.priority for resident in self.residents), default=None)

    @property
    def capacity(self) -> Capacity:
        """What all nodes together have; that of the room unless something else was said."""
        return self._capacity or self.room.capacity()

    @property
    def devices(self) -> Sequence[FreeDevice]:
        """The devices by node and index, with what is left of each."""
        return self.room.free()

    def but(
        self,
        *,
        room: Room | None = None,
        queue: Sequence[Request] | None = None,
        residents: Sequence[Resident] | Callable[[], Sequence[Resident]] | None = None,
        tenants: Mapping[str, TenantUse] | None = None,
    ) -> "Snapshot":
        """The same with other parts."""
        return Snapshot(
            at=self.at,
            room=room or self.room,
            queue=self.queue if queue is None else queue,
            residents=self._residents if residents is None else residents,
            tenants=self._tenants if tenants is None else tenants,
            arrivals=self.arrivals,
            capacity=self._capacity,
            has_quotas=self._has_quotas if tenants is None else None,
            lowest_priority=self._lowest_priority if residents is None else None,
        )
