"""What is barred, on which evidence and for how long, and who leaves for it."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.interference import Bar, Interference, Rules, undone
from orchestrator.schema import Demand, Placement, Request, Resident
from tests.unit.orchestrator.builders import GIB
from tests.unit.orchestrator.interference.truths import STEP_S, TRUTH, seat, slices

RULES = Rules(retry_s=100.0)
NO_CAPS: Mapping[str, float] = {}


def measured(
    pairs: list[tuple[str, str]], *, noise: float = 0.05, count: int = 20, truth: Mapping = TRUTH
) -> Interference:
    """What was learned of these pairs, each side alone and beside the other."""
    found = Interference(RULES)
    teach(found, pairs, noise=noise, count=count, truth=truth)
    return found


def teach(
    found: Interference,
    pairs: list[tuple[str, str]],
    *,
    noise: float = 0.05,
    count: int = 20,
    truth: Mapping = TRUTH,
    at: float = 0.0,
) -> None:
    for kind, other in {pair for one, two in pairs for pair in ((one, two), (two, one))}:
        for neighbours in ((), ((other, 0.5),)):
            for made in slices(kind, neighbours, count, noise=noise, truth=truth, at=at):
                found.model.observe(made)


def test_sharing_that_gets_through_less_than_one_after_the_other_is_barred() -> None:
    found = measured([("grpo", "grpo")])
    assert found.judge(NO_CAPS, 50.0)
    (bar,) = found.bars
    assert bar.kinds == ("grpo", "grpo")
    assert bar.reason.startswith("grpo and grpo on one device get through 0.7")
    assert found.conflicts() == {"grpo": ("grpo",)}


def test_sharing_that_gains_is_left_alone_and_stays_so() -> None:
    found = measured([("sft", "grpo")])
    for at in (50.0, 100.0, 150.0):
        teach(found, [("sft", "grpo")], at=at)
        assert not found.judge(NO_CAPS, at)
    (together,) = found.table()
    assert together.throughput == pytest.approx(1 / 1.3 + 1 / 1.4, rel=0.05)


def test_sharing_that_neither_gains_nor_loses_is_left_alone() -> None:
    assert not measured([("sft", "sft")], noise=0.1).judge(NO_CAPS, 50.0)


def test_a_few_slices_are_not_enough() -> None:
    assert not measured([("grpo", "grpo")], count=4).judge(NO_CAPS, 50.0)


def test_noise_that_leaves_it_open_is_not_enough() -> None:
    truth = {**TRUTH, ("grpo", "grpo"): 2.15}
    assert not measured([("grpo", "grpo")], noise=0.5, count=6, truth=truth).judge(NO_CAPS, 50.0)


def test_a_pair_that_nobody_has_seen_is_tried() -> None:
    found = measured([("sft", "sft")])
    assert not found.judge({"sft": 2.5, "grpo": 1.2}, 50.0)


@pytest.mark.parametrize(("caps", "barred"), [({"sft": 1.2}, True), ({"grpo": 1.2}, True), ({"sft": 1.6}, False)])
def test_the_cap_of_either_side_bars_a_pair_that_is_slower(caps: Mapping[str, float], barred: bool) -> None:
    found = measured([("sft", "grpo")])
    assert found.judge(caps, 50.0) == barred
    assert (found.conflicts() == {"grpo": ("sft",), "sft": ("grpo",)}) == barred


def test_the_reason_names_what_was_measured_and_the_cap() -> None:
    found = measured([("sft", "grpo")])
    found.judge({"sft": 1.2}, 50.0)
    assert found.bars[0].reason.startswith("sft beside grpo takes 1.")
    assert found.bars[0].reason.endswith("more than cluster.max_slowdown_per_trial=1.2")


def test_a_bar_ends_and_what_it_went_by_is_forgotten() -> None:
    found = measured([("grpo", "grpo")])
    found.judge(NO_CAPS, 50.0)
    assert not found.due(149.0)
    assert found.due(150.0)
    assert found.judge(NO_CAPS, 150.0)
    assert found.bars == ()
    assert not found.judge(NO_CAPS, 160.0)


def test_a_bar_that_is_confirmed_lasts_twice_as_long() -> None:
    found = measured([("grpo", "grpo")])
    found.judge(NO_CAPS, 50.0)
    found.judge(NO_CAPS, 150.0)
    teach(found, [("grpo", "grpo")], at=160.0)
    assert found.judge(NO_CAPS, 200.0)
    assert found.bars[0].until == 400.0


def test_one_bad_measurement_is_not_for_ever() -> None:
    found = measured([("sft", "sft")], truth={**TRUTH, ("sft", "sft"): 4.0})
    assert found.judge(NO_CAPS, 50.0)
    found.judge(NO_CAPS, 150.0)
    teach(found, [("sft", "sft")], at=160.0)
    assert not found.judge(NO_CAPS, 200.0)


def test_it_is_judged_when_there_is_news_and_not_too_often() -> None:
    found = measured([("sft", "sft")])
    found.judge(NO_CAPS, 50.0)
    assert not found.due(99.0)
    teach(found, [("sft", "sft")], count=1)
    assert not found.due(51.0)
    assert found.due(52.0)


def test_it_learns_from_bundles_that_report() -> None:
    found = Interference(Rules(slice_s=2.0))
    found.sit("x", seat("grpo"))
    _run(found, {"x": 1.0}, 0.0, 20.0)
    found.sit("y", seat("grpo"))
    _run(found, {"x": 2.6, "y": 2.6}, 20.0, 60.0)
    assert found.model.slowdown("grpo", 0.5, [("grpo", 0.5)]).mean == pytest.approx(2.6, rel=0.05)
    assert found.judge(NO_CAPS, 60.0)


def _run(found: Interference, slower: Mapping[str, float], begin: float, end: float) -> None:
    """Bundles of kind grpo report every second."""
    at = begin
    while at < end:
        at += 1.0
        for bundle_id, slowdown in slower.items():
            found.report(bundle_id, "grpo", (at - begin) / (STEP_S["grpo"] * slowdown) + 100.0 * begin, at)


def resident(name: str, kind: str, devices: list[str], opened_at: float, **other: object) -> Resident:
    demand = Demand(devices=len(devices), share=0.5, memory_bytes=GIB, kind=kind)
    request = Request(stage_key=name, study_id="s", trial_ids=(name,), demand=demand, queued_at=0.0)
    placement = Placement(stage_key=name, device_ids=tuple(devices), share=0.5, memory_bytes=GIB)
    return Resident(bundle_id=name, placement=placement, request=request, opened_at=opened_at, **other)  # type: ignore[arg-type]


BARS = (Bar(kinds=("grpo", "sft"), reason="too slow", since=0.0, until=1e9),)


def leaving(*residents: Resident, at: float = 100.0) -> list[str]:
    return [undoing.bundle_id for undoing in undone(BARS, residents, at, RULES)]


def test_the_younger_of_a_barred_pair_leaves() -> None:
    old, young = resident("old", "sft", ["a"], 1.0), resident("young", "grpo", ["a"], 2.0)
    assert leaving(young, old) == ["young"]
    (undoing,) = undone(BARS, [old, young], 100.0, RULES)
    assert undoing.reason == "sharing is undone: too slow"


def test_of_two_as_old_the_one_with_the_larger_id_leaves() -> None:
    assert leaving(resident("b", "sft", ["a"], 1.0), resident("a", "grpo", ["a"], 1.0)) == ["b"]


def test_whoever_shares_no_device_with_a_barred_kind_stays() -> None:
    assert leaving(resident("1", "sft", ["a"], 1.0), resident("2", "grpo", ["b"], 2.0)) == []
    assert leaving(resident("1", "sft", ["a"], 1.0), resident("2", "sft", ["a"], 2.0)) == []


def test_nobody_leaves_for_one_that_leaves_or_ends_anyway() -> None:
    young = resident("young", "grpo", ["a"], 2.0)
    assert leaving(resident("old", "sft", ["a"], 1.0, stopping=True), young) == []
    assert leaving(resident("old", "sft", ["a"], 1.0, expected_end_at=105.0), young) == []
    assert leaving(resident("old", "sft", ["a"], 1.0, expected_end_at=200.0), young) == ["young"]


def test_one_that_leaves_makes_nobody_else_leave() -> None:
    first = resident("1", "sft", ["a"], 1.0)
    second = resident("2", "grpo", ["a", "b"], 2.0)
    third = resident("3", "sft", ["b"], 3.0)
    assert leaving(first, second, third) == ["2"]


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["sft", "grpo", "probe"]),
            st.sets(st.sampled_from("abc"), min_size=1, max_size=2),
            st.integers(0, 3),
        ),
        max_size=8,
    )
)
def test_afterwards_no_barred_pair_shares_a_device_and_nobody_left_in_vain(rows: list) -> None:
    residents = [resident(str(n), kind, sorted(on), float(at)) for n, (kind, on, at) in enumerate(rows)]
    gone = set(leaving(*residents))
    staying = [r for r in residents if r.bundle_id not in gone]

    def clash(one: Resident, other: Resident) -> bool:
        shared = set(one.placement.device_ids) & set(other.placement.device_ids)
        return bool(shared) and {one.request.demand.kind, other.request.demand.kind} == {"sft", "grpo"}

    assert not any(clash(one, other) for one in staying for other in staying)
    for left in (r for r in residents if r.bundle_id in gone):
        assert any(clash(left, other) and other.opened_at <= left.opened_at for other in staying)


class Sharing:
    """Two of a kind on one device that report every second, and have never been seen alone."""

    def __init__(self, slower: float = 2.6) -> None:
        self.found = Interference(Rules(apart_after_s=30.0))
        self.at, self.steps, self.slower = 0.0, {"x": 0.0, "y": 0.0}, slower
        for age, bundle_id in enumerate(self.steps):
            self.found.sit(bundle_id, seat("grpo", since=float(age)))

    def until(self, at: float) -> None:
        while self.at < at:
            self.at += 1.0
            for bundle_id in self.steps:
                pace = STEP_S["grpo"] * (self.slower if len(self.steps) > 1 else 1.0)
                self.steps[bundle_id] += 1.0 / pace
                self.found.report(bundle_id, "grpo", self.steps[bundle_id], self.at)
                if self.found.due(self.at):
                    self.found.judge(NO_CAPS, self.at)

    def leave(self, bundle_id: str) -> None:
        del self.steps[bundle_id]
        self.found.leave(bundle_id)


def test_one_that_was_never_seen_alone_is_set_apart_once_it_has_sat_beside_others_for_long_enough() -> None:
    sharing = Sharing()
    sharing.until(30.0)
    assert sharing.found.bars == ()
    sharing.until(40.0)
    (bar,) = sharing.found.bars
    assert bar.device_ids == ("a/0",)
    assert "measured alone" in bar.reason
    old, young = resident("x", "grpo", ["a/0"], 0.0), resident("y", "grpo", ["a/0"], 1.0)
    elsewhere = [resident(name, "grpo", ["b/0"], 1.0) for name in "vw"]
    gone = undone(sharing.found.bars, [old, young, *elsewhere], 40.0, RULES)
    assert [undoing.bundle_id for undoing in gone] == ["y"]


def test_what_was_set_apart_is_known_alone_and_judged_by_it() -> None:
    sharing = Sharing()
    sharing.until(40.0)
    sharing.leave("y")
    sharing.until(60.0)
    assert sharing.found.model.slowdown("grpo", 0.5, [("grpo", 0.5)]).mean == pytest.approx(2.6, rel=0.1)
    (bar,) = sharing.found.bars
    assert "get through 0.7" in bar.reason


def test_setting_apart_ends_where_sharing_turns_out_to_gain() -> None:
    sharing = Sharing(slower=1.3)
    sharing.until(40.0)
    assert sharing.found.bars
    sharing.leave("y")
    sharing.until(60.0)
    assert sharing.found.bars == ()


def test_it_ends_in_any_case_and_is_not_tried_again() -> None:
    sharing = Sharing()
    sharing.until(40.0)
    until = sharing.found.bars[0].until
    sharing.until(until + 3.0)
    assert sharing.found.bars == ()
    sharing.until(until + 200.0)
    assert sharing.found.bars == ()


def test_nobody_of_any_kind_comes_beside_one_that_is_set_apart() -> None:
    sharing = Sharing()
    sharing.found.sit("z", seat("sft", ("b/0",)))
    sharing.until(40.0)
    assert sharing.found.conflicts() == {"grpo": ("grpo", "sft"), "sft": ("grpo",)}


def test_one_that_is_known_alone_is_not_set_apart() -> None:
    sharing = Sharing()
    for made in slices("grpo", (), 5):
        sharing.found.model.observe(made)
    sharing.until(25.0)
    assert all(not bar.device_ids for bar in sharing.found.bars)
