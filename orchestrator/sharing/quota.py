"""Who may start at all: quotas, borrowing, and their limits. All in devices x share.

A request *fits its quota* if what its tenant holds, what was admitted for it already and the request itself are within
the quota. Beyond that it *borrows*, up to the borrowing limit. A tenant without a quota has no limit and always fits.
"""

from collections.abc import Iterable, Mapping

from orchestrator.schema import Capacity, Request, Tenant, TenantUse
from orchestrator.snapshot import Snapshot

# Shares are sums of decimal fractions; ten of 0.1 must fill a quota of one.
TOLERANCE = 1e-9


def tenant_use(tenants: Mapping[str, TenantUse], name: str) -> TenantUse:
    """A tenant's use; one that nobody declared holds nothing and has the defaults of `Tenant`."""
    return tenants.get(name) or TenantUse(tenant=Tenant(name=name), held=Capacity(), used=Capacity())


def devices_of(request: Request) -> float:
    """What a request asks for [devices x share]."""
    return request.demand.devices * request.demand.share


def fits_quota(tenant: Tenant, devices: float) -> bool:
    """Whether a tenant that holds `devices` [devices x share] is within its quota."""
    return tenant.quota is None or devices <= tenant.quota + TOLERANCE


def limit_of(tenant: Tenant) -> float | None:
    """Quota and borrowing limit together [devices x share]; None: there is no limit."""
    if tenant.quota is None or tenant.borrowing_limit is None:
        return None
    return tenant.quota + tenant.borrowing_limit


def admit(ordered: Iterable[Request], snapshot: Snapshot) -> tuple[Iterable[Request], dict[str, str]]:
    """The requests that may start now, and why the others may not, by stage key.

    Those that fit their quota go before those that borrow, so that what a claimant is given back isn't borrowed again;
    otherwise the order stays. A tenant's request that is held back holds back those behind it: small requests would
    else keep the tenant at its limit, and a gang out, forever. One that can never start holds nobody back.

    Where no tenant has a quota, `ordered` comes back as it is, and nothing of it has been looked at.
    """
    if not snapshot.has_quotas:
        return ordered, {}
    fitting: list[Request] = []
    borrowing: list[Request] = []
    held_back: dict[str, str] = {}
    uses: dict[str, TenantUse] = {}
    counted: dict[str, float] = {}
    behind: dict[str, str] = {}
    for request in ordered:
        name = request.tenant
        if name not in uses:
            uses[name] = tenant_use(snapshot.tenants, name)
            counted[name] = uses[name].held.devices
        tenant, limit = uses[name].tenant, limit_of(uses[name].tenant)
        asked = devices_of(request)
        if limit is not None and asked > limit + TOLERANCE:
            held_back[request.stage_key] = _never(request, tenant)
        elif name in behind:
            held_back[request.stage_key] = behind[name]
        elif limit is not None and counted[name] + asked > limit + TOLERANCE:
            behind[name] = _behind(tenant, request)
            held_back[request.stage_key] = _at_limit(request, uses[name], counted[name])
        else:
            counted[name] += asked
            (fitting if fits_quota(tenant, counted[name]) else borrowing).append(request)
    return fitting + borrowing, held_back


def _limits_in_words(tenant: Tenant) -> str:
    return f"its quota is {tenant.quota:g} device(s), its borrowing limit {tenant.borrowing_limit:g} more"


def _at_limit(request: Request, use: TenantUse, counted: float) -> str:
    admitted = counted - use.held.devices
    soon = f" and has {admitted:g} more about to start" if admitted > TOLERANCE else ""
    return (
        f"tenant {use.tenant.name} holds {use.held.devices:g} device(s){soon}; {_limits_in_words(use.tenant)}, "
        f"and this run asks for {devices_of(request):g}"
    )


def _behind(tenant: Tenant, first: Request) -> str:
    return (
        f"tenant {tenant.name} is at its limit: {_limits_in_words(tenant)}; an earlier run of the tenant, "
        f"which asks for {devices_of(first):g}, goes first"
    )


def _never(request: Request, tenant: Tenant) -> str:
    return (
        f"it can never start: it asks for {devices_of(request):g} device(s) and tenant {tenant.name} may not hold as "
        f"many; {_limits_in_words(tenant)}. Ask for fewer devices, or have the quota or the limit raised"
    )
