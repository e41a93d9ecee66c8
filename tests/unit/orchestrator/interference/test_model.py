"""The model finds the slowdowns that slices were made with, says how sure it is, and has a prior for the rest."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.interference import SlowdownModel
from orchestrator.interference.model import DRIFT
from tests.unit.orchestrator.interference.truths import TRUTH, slices, slowdown

HALF = 0.5


def learned(noise: float = 0.0, count: int = 20, seed: int = 0) -> SlowdownModel:
    """Each of two kinds alone, and beside each."""
    model = SlowdownModel()
    for kind in ("sft", "grpo"):
        for neighbours in ((), (("sft", HALF),), (("grpo", HALF),)):
            for made in slices(kind, neighbours, count, noise=noise, seed=seed):
                model.observe(made)
    return model


@pytest.mark.parametrize("pair", sorted(TRUTH))
def test_the_truth_is_recovered_from_noisy_slices(pair: tuple[str, str]) -> None:
    kind, other = pair
    found = learned(noise=0.15).slowdown(kind, HALF, [(other, HALF)])
    assert found.mean == pytest.approx(TRUTH[pair], rel=0.1)
    assert found.low < TRUTH[pair] < found.high
    assert found.slices == 20


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    inside = [
        found.low <= TRUTH[pair] <= found.high
        for seed in range(40)
        for pair in sorted(TRUTH)
        for found in [learned(noise=0.2, seed=seed).slowdown(pair[0], HALF, [(pair[1], HALF)])]
    ]
    assert sum(inside) / len(inside) > 0.88


def test_more_slices_make_the_interval_narrower_but_not_than_paces_drift() -> None:
    few, many, most = (learned(0.2, count).slowdown("sft", HALF, [("grpo", HALF)]) for count in (4, 64, 2000))
    assert most.deviation < many.deviation < few.deviation
    assert most.deviation > DRIFT * most.mean


def test_what_nobody_has_seen_divides_the_device_in_proportion_to_the_shares() -> None:
    model = SlowdownModel()
    assert model.slowdown("sft", 0.5, [("grpo", 0.5)]).mean == 2.0
    assert model.slowdown("sft", 0.25, [("grpo", 0.5), ("sft", 0.25)]).mean == 4.0
    assert model.slowdown("sft", 0.5, [("grpo", 0.5)]).slices == 0
    assert model.slowdown("sft", 0.5, []).mean == 1.0


def test_a_few_slices_move_the_prior_only_a_bit() -> None:
    model = SlowdownModel()
    for made in [*slices("sft", (), 1), *slices("sft", (("grpo", HALF),), 1)]:
        model.observe(made)
    assert 1.3 < model.slowdown("sft", HALF, [("grpo", HALF)]).mean < 2.0


def test_without_a_pace_alone_nothing_can_be_said() -> None:
    model = SlowdownModel()
    for made in slices("sft", (("grpo", HALF),), 50):
        model.observe(made)
    found = model.slowdown("sft", HALF, [("grpo", HALF)])
    assert (found.mean, found.slices) == (2.0, 0)


def test_paces_are_compared_within_a_unit_only() -> None:
    model = SlowdownModel()
    for made in [*slices("sft", (), 9, unit="small"), *slices("sft", (("grpo", HALF),), 9, unit="large")]:
        model.observe(made)
    assert model.slowdown("sft", HALF, [("grpo", HALF)]).slices == 0


def test_what_was_alone_at_another_share_is_a_measure_too() -> None:
    model = SlowdownModel()
    for made in [*slices("sft", (), 9, share=1.0), *slices("sft", (("grpo", HALF),), 9)]:
        model.observe(made)
    assert model.slowdown("sft", HALF, [("grpo", HALF)]).mean == pytest.approx(1.3, rel=0.05)


def test_pairs_are_told_apart_where_three_sat_together() -> None:
    model = SlowdownModel()
    quarter = 0.25
    for neighbours in ((), (("grpo", quarter), ("grpo", quarter)), (("grpo", quarter), ("sft", quarter))):
        for made in slices("sft", neighbours, 20, share=quarter, noise=0.05):
            model.observe(made)
    for other in ("sft", "grpo"):
        found = model.slowdown("sft", quarter, [(other, quarter)])
        assert found.mean == pytest.approx(TRUTH["sft", other], rel=0.1)


def test_a_pair_that_is_forgotten_is_as_good_as_never_seen() -> None:
    model = learned()
    model.forget("grpo", "sft")
    assert model.slowdown("sft", HALF, [("grpo", HALF)]).slices == 0
    assert model.slowdown("sft", HALF, [("sft", HALF)]).slices == 20


def test_what_was_seen_long_ago_counts_no_more() -> None:
    model = SlowdownModel(forget_s=100.0)
    for made in [*slices("sft", (("grpo", HALF),), 9), *slices("sft", (), 9, at=500.0)]:
        model.observe(made)
    assert model.slowdown("sft", HALF, [("grpo", HALF)]).slices == 0


def test_kinds_without_a_name_teach_nothing() -> None:
    model = SlowdownModel()
    for made in [*slices("sft", (), 5), *slices("sft", (("grpo", HALF),), 5)]:
        model.observe(made)
    before = model.revision
    model.observe(replace(slices("sft", (), 1)[0], kind=""))
    model.observe(replace(slices("sft", (), 1)[0], neighbours=(("", HALF),)))
    assert model.revision == before


@given(
    share=st.sampled_from([0.25, 0.5]),
    neighbours=st.lists(st.tuples(st.sampled_from(["sft", "grpo"]), st.sampled_from([0.25, 0.5])), max_size=2),
)
def test_any_company_follows_from_the_pairs(share: float, neighbours: list[tuple[str, float]]) -> None:
    beside = tuple(sorted(neighbours))
    found = learned(count=200).slowdown("grpo", share, beside)
    assert found.mean == pytest.approx(slowdown("grpo", share, beside, TRUTH), rel=0.05)
    assert found.low <= found.mean <= found.high
