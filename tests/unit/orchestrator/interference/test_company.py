"""Who sits beside whom, and that no slice spans a change of company."""

from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.interference import Companies, Slice
from tests.unit.orchestrator.interference.truths import seat


def reports(companies: Companies, bundle_id: str, *points: tuple[float, float]) -> list[Slice]:
    """The slices that end with any of these (at, steps)."""
    found = [companies.report(bundle_id, "unit", steps, at) for at, steps in points]
    return [slice_ for slice_ in found if slice_ is not None]


def test_alone_a_slice_spans_the_reports() -> None:
    companies = Companies(2.0)
    companies.sit("x", seat("sft"))
    (found,) = reports(companies, "x", (10.0, 5.0), (11.0, 10.0), (12.5, 20.0))
    assert (found.steps, found.seconds, found.neighbours, found.at) == (15.0, 2.5, (), 12.5)


def test_the_next_slice_begins_where_the_last_one_ended() -> None:
    companies = Companies(2.0)
    companies.sit("x", seat("sft"))
    found = reports(companies, "x", (0.0, 0.0), (2.0, 10.0), (4.0, 30.0))
    assert [(slice_.steps, slice_.seconds) for slice_ in found] == [(10.0, 2.0), (20.0, 2.0)]


def test_a_slice_has_at_least_a_step() -> None:
    companies = Companies(2.0)
    companies.sit("x", seat("sft"))
    (found,) = reports(companies, "x", (0.0, 3.0), (9.0, 3.0), (10.0, 4.0))
    assert (found.steps, found.seconds) == (1.0, 10.0)


def test_what_lies_around_a_change_of_company_belongs_to_no_slice() -> None:
    companies = Companies(2.0)
    companies.sit("x", seat("sft"))
    alone = reports(companies, "x", (0.0, 0.0), (2.0, 10.0), (3.0, 15.0))
    companies.sit("y", seat("grpo"))
    beside = reports(companies, "x", (4.0, 18.0), (6.0, 22.0))
    companies.leave("y")
    again = reports(companies, "x", (7.0, 25.0), (9.0, 35.0))
    assert [slice_.neighbours for slice_ in (*alone, *beside, *again)] == [(), (("grpo", 0.5),), ()]
    assert [slice_.steps for slice_ in (*alone, *beside, *again)] == [10.0, 4.0, 10.0]


def test_one_of_the_same_kind_and_share_in_anothers_place_is_the_same_company() -> None:
    companies = Companies(2.0)
    for bundle_id in ("x", "y"):
        companies.sit(bundle_id, seat("sft"))
    reports(companies, "x", (0.0, 0.0))
    companies.sit("z", seat("grpo"))
    companies.leave("z")
    assert reports(companies, "x", (1.0, 5.0), (2.0, 10.0)) == []
    (found,) = reports(companies, "x", (3.0, 15.0))
    assert found.steps == 10.0


def test_a_gang_has_the_neighbours_of_its_fullest_device() -> None:
    companies = Companies(2.0)
    companies.sit("gang", seat("sft", ("a/0", "a/1")))
    companies.sit("y", seat("grpo", ("a/1",)))
    assert companies.neighbours("gang") == (("grpo", 0.5),)
    assert companies.neighbours("y") == (("sft", 0.5),)


def test_another_phase_is_another_company_for_the_neighbours() -> None:
    companies = Companies(2.0)
    companies.sit("x", seat("sft"))
    companies.sit("y", seat("grpo:learn"))
    companies.become("y", "grpo:rollout")
    assert companies.neighbours("x") == (("grpo:rollout", 0.5),)


def test_steps_that_are_said_again_after_a_restart_begin_no_slice() -> None:
    companies = Companies(2.0)
    companies.sit("x", seat("sft"))
    (found,) = reports(companies, "x", (0.0, 50.0), (0.1, 40.0), (0.2, 45.0), (3.1, 60.0))
    assert (found.steps, found.seconds) == (20.0, 3.0)


def test_reports_of_nobody_are_ignored() -> None:
    companies = Companies(2.0)
    companies.leave("nobody")
    assert companies.report("nobody", "unit", 1.0, 1.0) is None


class Coming(RuleBasedStateMachine):
    """Bundles come, report, and go in any order; each goes at a pace of its own that the slices must have."""

    def __init__(self) -> None:
        super().__init__()
        self.companies = Companies(2.0)
        self.now, self.next_id = 0.0, 0
        self.sitting: dict[str, tuple[str, str, float]] = {}
        self.changed_at: dict[str, float] = {}
        self.slices: dict[str, list[Slice]] = {}

    def around(self, bundle_id: str) -> tuple[tuple[str, float], ...]:
        device = self.sitting[bundle_id][1]
        others = [(k, s) for b, (k, d, s) in self.sitting.items() if d == device and b != bundle_id]
        return tuple(sorted(others))

    @rule(kind=st.sampled_from(["sft", "grpo"]), device=st.sampled_from("ab"), share=st.sampled_from([0.25, 0.5]))
    def sit(self, kind: str, device: str, share: float) -> None:
        bundle_id, self.next_id = str(self.next_id), self.next_id + 1
        before = {b: self.around(b) for b in self.sitting}
        self.sitting[bundle_id] = kind, device, share
        self.companies.sit(bundle_id, seat(kind, (device,), share))
        self.changed_at |= {b: self.now for b in self.sitting if before.get(b) != self.around(b) or b == bundle_id}

    @precondition(lambda self: self.sitting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        bundle_id = data.draw(st.sampled_from(sorted(self.sitting)))
        before = {b: self.around(b) for b in self.sitting if b != bundle_id}
        del self.sitting[bundle_id]
        self.companies.leave(bundle_id)
        self.changed_at |= {b: self.now for b in self.sitting if before[b] != self.around(b)}

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.sitting)
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        bundle_id = data.draw(st.sampled_from(sorted(self.sitting)))
        found = self.companies.report(bundle_id, "unit", 10.0 * self.now, self.now)
        if found is None:
            return
        assert found.neighbours == self.around(bundle_id)
        assert found.at - found.seconds >= self.changed_at[bundle_id]
        assert found.steps == 10.0 * found.seconds
        assert found.seconds >= 2.0
        self.slices.setdefault(bundle_id, []).append(found)

    @invariant()
    def company_is_who_sits_there(self) -> None:
        assert all(self.companies.neighbours(b) == self.around(b) for b in self.sitting)

    @invariant()
    def slices_do_not_overlap(self) -> None:
        for found in self.slices.values():
            assert all(one.at <= other.at - other.seconds for one, other in pairwise(found))


Coming.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestComing = Coming.TestCase
