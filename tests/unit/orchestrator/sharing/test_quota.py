"""admit: quotas, borrowing and limits, in devices x share."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.schema import Capacity, Tenant, TenantUse
from orchestrator.sharing import admit
from orchestrator.snapshot import Snapshot
from tests.unit.orchestrator.ordering.requests import keys, waiting


def holding(tenant: Tenant, devices: float = 0.0) -> Snapshot:
    use = TenantUse(tenant=tenant, held=Capacity(devices=devices), used=Capacity())
    return Snapshot(at=0.0, tenants={tenant.name: use})


def team(quota: float | None, borrowing_limit: float | None = 0.0) -> Tenant:
    return Tenant(name="team", quota=quota, borrowing_limit=borrowing_limit)


def test_what_fits_the_quota_is_admitted_in_order() -> None:
    queue = [waiting(str(n), tenant="team") for n in range(2)]
    assert admit(queue, holding(team(quota=2.0))) == (queue, {})


def test_what_the_tenant_holds_counts() -> None:
    admitted, held_back = admit([waiting("x", tenant="team")], holding(team(quota=2.0), devices=1.5))
    assert admitted == []
    assert held_back == {
        "x": "tenant team holds 1.5 device(s); its quota is 2 device(s), its borrowing limit 0 more, "
        "and this run asks for 1"
    }


def test_what_was_admitted_before_counts() -> None:
    queue = [waiting(str(n), tenant="team", share=0.5) for n in range(3)]
    admitted, held_back = admit(queue, holding(team(quota=1.0)))
    assert keys(admitted) == ["0", "1"]
    assert "has 1 more about to start" in held_back["2"]


def test_ten_tenths_fit_a_quota_of_one() -> None:
    queue = [waiting(str(n), tenant="team", share=0.1) for n in range(11)]
    assert keys(admit(queue, holding(team(quota=1.0)))[0]) == keys(queue[:10])


def test_borrowers_go_behind_whoever_fits_its_quota() -> None:
    queue = [waiting("team-0", tenant="team"), waiting("team-1", tenant="team"), waiting("other", tenant="other")]
    assert keys(admit(queue, holding(team(quota=1.0, borrowing_limit=1.0)))[0]) == ["team-0", "other", "team-1"]


def test_borrowing_without_a_limit_has_none() -> None:
    queue = [waiting(str(n), tenant="team") for n in range(50)]
    assert admit(queue, holding(team(quota=1.0, borrowing_limit=None)))[0] == queue


def test_without_a_quota_everything_fits() -> None:
    queue = [waiting(str(n), tenant="team") for n in range(50)]
    assert admit(queue, holding(team(quota=None), devices=99.0)) == (queue, {})


def test_a_tenant_nobody_declared_has_no_quota() -> None:
    queue = [waiting("x", tenant="unheard of")]
    assert admit(queue, Snapshot(at=0.0)) == (queue, {})


def test_what_is_held_back_is_not_overtaken_by_its_own_tenant() -> None:
    queue = [waiting("gang", tenant="team", devices=4), waiting("small", tenant="team")]
    admitted, held_back = admit(queue, holding(team(quota=4.0), devices=2.0))
    assert admitted == []
    assert held_back["small"] == (
        "tenant team is at its limit: its quota is 4 device(s), its borrowing limit 0 more; an earlier run of the "
        "tenant, which asks for 4, goes first"
    )


def test_what_is_held_back_holds_no_other_tenant_back() -> None:
    queue = [waiting("gang", tenant="team", devices=4), waiting("other", tenant="other")]
    assert keys(admit(queue, holding(team(quota=4.0), devices=2.0))[0]) == ["other"]


def test_what_can_never_start_says_so_and_holds_nobody_back() -> None:
    queue = [waiting("huge", tenant="team", devices=8), waiting("small", tenant="team")]
    admitted, held_back = admit(queue, holding(team(quota=4.0, borrowing_limit=2.0)))
    assert keys(admitted) == ["small"]
    assert held_back == {
        "huge": "it can never start: it asks for 8 device(s) and tenant team may not hold as many; its quota is "
        "4 device(s), its borrowing limit 2 more. Ask for fewer devices, or have the quota or the limit raised"
    }


@given(
    asks=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 3), st.sampled_from([0.25, 0.5, 1.0])), max_size=20),
    quotas=st.tuples(st.integers(0, 6), st.integers(0, 6)),
    limits=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    held=st.tuples(st.integers(0, 8), st.integers(0, 8)),
)
def test_nobody_is_admitted_beyond_its_limit(asks: list, quotas: tuple, limits: tuple, held: tuple) -> None:
    tenants = {
        name: TenantUse(
            tenant=Tenant(name=name, quota=float(quota), borrowing_limit=float(limit)),
            held=Capacity(devices=float(devices)),
            used=Capacity(),
        )
        for name, quota, limit, devices in zip("ab", quotas, limits, held, strict=True)
    }
    queue = [waiting(str(n), tenant=t, devices=d, share=s) for n, (t, d, s) in enumerate(asks)]
    admitted, held_back = admit(queue, Snapshot(at=0.0, tenants=tenants))
    assert sorted(keys(admitted) + list(held_back)) == sorted(keys(queue))
    for name, use in tenants.items():
        devices = sum(r.demand.devices * r.demand.share for r in admitted if r.tenant == name)
        limit = (use.tenant.quota or 0.0) + (use.tenant.borrowing_limit or 0.0)
        assert devices == 0 or use.held.devices + devices <= limit


def test_where_nobody_has_a_quota_nobody_is_looked_at() -> None:
    order = iter([waiting("x"), waiting("y")])
    served, held_back = admit(order, holding(team(quota=None)))
    assert (served is order, held_back) == (True, {})
