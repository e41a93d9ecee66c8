"""What all stopping policies have in common: who is judged where, what follows, what is finished all the same."""

from dataclasses import replace

import pytest

from orchestrator.schema import Evaluation, Fate, Trial, TrialState
from orchestrator.stopping import STOPPINGS, GoOn, Hold, Prune, never
from tests.unit.orchestrator.stopping.studies import applied, flat, policy, trial

EARLY = sorted(set(STOPPINGS) - {"never", "wilcoxon"})
LADDER = [0.9, 0.8, 0.75, 0.2, 0.15, 0.1]


def spread(until_s: float = 3.0) -> list[Trial]:
    return [trial(n, flat(accuracy), until_s) for n, accuracy in enumerate(LADDER)]


def held(verdicts: object) -> set[int]:
    return {int(v.trial_id[-4:]) for v in verdicts if isinstance(v, Hold)}  # type: ignore[attr-defined]


def paused(trials: list[Trial], name: str = "successive_halving", **changes: object) -> list[Trial]:
    for verdict in policy(name, **changes)(trials):
        trials = applied(trials, verdict)
    return trials


@pytest.mark.parametrize("name", ["successive_halving", "median"])
def test_those_that_are_surely_behind_are_held(name: str) -> None:
    assert held(policy(name)(spread())) == {3, 4, 5}


def test_a_verdict_says_where_by_whom_against_what_and_how_surely() -> None:
    (verdict, *_) = [v for v in policy()(spread()) if isinstance(v, Hold)]
    assert verdict.stop.why.startswith(
        "stopped at 3 device-seconds by successive_halving: 20.0 % dev against 80.0 % of the last of the best third; "
        "confidence 99.9 %"
    )


def test_nobody_is_stopped_on_a_difference_that_chance_explains() -> None:
    close = [trial(n, flat(0.50 - 0.01 * n)) for n in range(6)]
    assert [policy(name)(close) for name in EARLY] == [[]] * len(EARLY)


def test_the_fewer_the_problems_the_less_is_sure() -> None:
    def gap(dev: int) -> list[Trial]:
        return [trial(n, flat(0.6 if n < 3 else 0.45), dev=dev) for n in range(6)]

    assert held(policy()(gap(400))) == {3, 4, 5}
    assert held(policy()(gap(20))) == set()


def test_without_a_number_of_dev_problems_nobody_is_stopped() -> None:
    assert policy()([trial(n, flat(a), dev=0) for n, a in enumerate(LADDER)]) == []


def test_nobody_is_judged_before_enough_have_reached_the_rung() -> None:
    assert policy()(spread()[2:5]) == []
    assert policy(min_trials=3)(spread()[2:5]) != []


def test_the_best_are_never_stopped_however_few_there_are() -> None:
    for count in range(2, 7):
        assert 0 not in held(policy(min_trials=2)(spread()[:count]))


def test_a_trial_is_held_to_what_others_had_reached_for_as_much() -> None:
    """The others are far ahead by now; at 3 device-seconds they were no better."""
    ahead = [trial(n, lambda s: 0.3 if s < 9 else 0.9, 20.0) for n in range(5)]
    assert held(policy()([*ahead, trial(5, flat(0.3), 3.0)])) == set()


@pytest.mark.parametrize("resource", ["device_seconds", "tokens", "steps"])
def test_any_resource_may_be_compared_by(resource: str) -> None:
    assert held(policy(resource=resource, min_resource=1.0)(spread())) == {3, 4, 5}


# --- late bloomers ---------------------------------------------------------------------------------------------------


def bloomers() -> list[Trial]:
    """RL near its start for a third of its budget of 30 device-seconds, and then ahead of everybody."""
    learning = [trial(n, lambda s: 0.5 if s < 27 else 0.7, 4.0) for n in range(5)]
    blooming = [trial(n, lambda s: 0.2 if s < 12 else 0.95, 4.0, algorithm="grpo") for n in (5, 6)]
    return [*learning, *blooming]


def test_a_rule_without_grace_stops_those_who_would_have_won() -> None:
    assert held(policy()(bloomers())) == {5, 6}


@pytest.mark.parametrize("grace", [{"grace": {"grpo": 0.5}}, {"grace": {"grpo": 15.0}, "grace_unit": "resource"}])
def test_a_grace_for_their_algorithm_saves_them(grace: dict) -> None:
    assert policy(**grace)(bloomers()) == []
    grown = [
        replace(t, evaluations=trial(t.number, lambda s: 0.2 if s < 12 else 0.95, 28.0).evaluations)
        if t.variant.algorithm == "grpo"
        else replace(t, evaluations=trial(t.number, lambda s: 0.5 if s < 27 else 0.7, 28.0).evaluations)
        for t in bloomers()
    ]
    assert held(policy(**grace)(grown)) == {0, 1, 2, 3, 4}


def test_who_is_in_its_grace_sets_no_bar_and_counts_for_nobody() -> None:
    fast = [trial(n, flat(0.9), algorithm="grpo") for n in range(5)]
    assert policy(grace={"grpo": 0.5})([*fast, trial(5, flat(0.1))]) == []


# --- seeds -----------------------------------------------------------------------------------------------------------


def seeded(good: list[float], bad: list[float], bad_seeds: int | None = None) -> list[Trial]:
    made = [trial(n, flat(a), seed=n, lr=1.0) for n, a in enumerate(good)]
    for seed, accuracy in enumerate(bad):
        late = bad_seeds is not None and seed >= bad_seeds
        made.append(trial(10 + seed, flat(accuracy), 1e-9 if late else 3.0, seed=seed, lr=2.0))
    return made


def test_a_setting_is_judged_over_paired_seeds() -> None:
    assert held(policy()(seeded([0.9, 0.8, 0.7], [0.6, 0.5, 0.4]))) == {10, 11, 12}


def test_a_setting_is_not_judged_by_its_first_seed() -> None:
    assert policy(min_trials=2)(seeded([0.9, 0.8, 0.7], [0.3, 0.3, 0.3], bad_seeds=1)) == []
    assert held(policy(min_trials=2)(seeded([0.9, 0.8, 0.7], [0.3, 0.2, 0.3], bad_seeds=2))) == {10, 11}


def test_seeds_that_disagree_make_no_verdict() -> None:
    assert policy()(seeded([0.9, 0.3, 0.6], [0.3, 0.8, 0.5])) == []


# --- promotion, pruning, finishing -----------------------------------------------------------------------------------


def test_who_is_held_stays_so_while_others_may_still_reach_the_rung() -> None:
    trials = [*paused(spread()), trial(6, until_s=0.0, state=TrialState.QUEUED)]
    assert policy()(trials) == []


def test_who_is_held_is_pruned_once_nothing_can_promote_it() -> None:
    trials = paused(spread())
    assert [type(v) for v in policy()(trials)] == [Prune] * 3


def test_who_is_held_is_promoted_when_worse_ones_arrive() -> None:
    trials = paused(spread())
    arrived = [trial(10 + n, flat(0.02)) for n in range(12)]
    verdicts = policy()([*trials, *arrived])
    assert GoOn("study-1-0003", Fate.PROMOTED) in verdicts


def test_who_is_held_is_not_promoted_by_a_bar_that_is_less_sure() -> None:
    """Of nine settings the third is the bar: one that varies so much that nobody is surely behind it."""
    good = [trial(10 * n + seed, flat(0.9), seed=seed, lr=float(n)) for n in range(2) for seed in range(4)]
    bad = [trial(20 + seed, flat(0.7), seed=seed, lr=2.0) for seed in range(4)]
    trials = [*good, *bad]
    for verdict in policy()(trials):
        trials = applied(trials, verdict)
    assert sum(t.stopped is not None for t in trials) == 4
    unsteady = [trial(30 + s, flat(a), seed=s, lr=3.0) for s, a in enumerate((0.99, 0.5, 0.99, 0.92))]
    others = [trial(40 + 10 * n + s, flat(0.1), seed=s, lr=4.0 + n) for n in range(5) for s in range(4)]
    said = policy()([*trials, *unsteady, *others])
    assert not [v for v in said if isinstance(v, GoOn)]


def test_a_single_seed_of_many_sets_no_bar() -> None:
    trials = [*seeded([0.8, 0.8, 0.8], [0.5, 0.5, 0.5]), trial(20, flat(0.9), seed=0, lr=3.0)]
    trials += [trial(21 + n, flat(0.9), 1e-9, seed=1 + n, lr=3.0) for n in range(2)]
    assert held(policy()(trials)) == {10, 11, 12}


def test_who_was_promoted_is_not_judged_there_again() -> None:
    (stopped, *_) = [t for t in paused(spread()) if t.stopped]
    assert stopped.stopped is not None
    promoted = replace(stopped, state=TrialState.RUNNING, stopped=replace(stopped.stopped, fate=Fate.PROMOTED))
    assert stopped.number not in held(policy()([*spread()[:3], *spread()[4:], promoted]))


def test_whom_a_person_has_spoken_for_is_left_alone() -> None:
    for t in [t for t in paused(spread()) if t.stopped]:
        assert t.stopped is not None
        mine = replace(t, stopped=replace(t.stopped, fate=Fate.OVERRULED))
        for state in (TrialState.PAUSED, TrialState.RUNNING):
            others = [o for o in spread() if o.number != t.number]
            said = policy()([*others, replace(mine, state=state)])
            assert t.trial_id not in {verdict.trial_id for verdict in said}


def test_nobody_goes_on_while_a_person_has_paused_all_the_others() -> None:
    trials = paused(spread(), finish_share=1.0)
    resting = [t if t.stopped else replace(t, state=TrialState.PAUSED) for t in trials]
    assert policy(finish_share=1.0)(resting) == []


def test_a_verdict_whose_leader_died_before_it_took_effect_is_said_again() -> None:
    trials = [replace(t, state=TrialState.QUEUED) if t.stopped else t for t in paused(spread())]
    assert held(policy()(trials)) == {3, 4, 5}
    again = {v.trial_id: v.stop for v in policy()(trials) if isinstance(v, Hold)}
    assert all(again[t.trial_id] == t.stopped for t in trials if t.stopped)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_a_set_share_of_those_that_are_stopped_is_drawn(share: float) -> None:
    trials = [trial(n, flat(0.9 if n < 40 else 0.1)) for n in range(60)]
    drawn = [v.stop.drawn for v in policy(finish_share=share)(trials) if isinstance(v, Hold)]
    assert len(drawn) == 20
    assert abs(sum(drawn) - share * 20) < 1.0


def test_who_was_drawn_goes_on_when_nothing_better_waits_and_is_left_alone_then() -> None:
    trials = paused(spread(), finish_share=1.0)
    waiting = trial(6, until_s=0.0, state=TrialState.QUEUED)
    assert policy(finish_share=1.0)([*trials, waiting]) == []
    verdicts = policy(finish_share=1.0)(trials)
    assert verdicts == [GoOn(f"study-1-000{n}", Fate.FINISHING) for n in (3, 4, 5)]
    going = [
        replace(t, state=TrialState.RUNNING, stopped=replace(t.stopped, fate=Fate.FINISHING)) if t.stopped else t
        for t in trials
    ]
    assert policy(finish_share=1.0)(going) == []


@pytest.mark.parametrize("state", [TrialState.QUEUED, TrialState.RUNNING, TrialState.COMPLETED])
def test_who_is_finished_and_would_have_been_promoted_counts_as_stopped_no_more(state: TrialState) -> None:
    """As for whom was not drawn: those that come later are worse, and the best third is larger then."""
    finishing = [
        replace(t, state=state, stopped=replace(t.stopped, fate=Fate.FINISHING)) if t.stopped else t
        for t in paused(spread(), finish_share=1.0)
    ]
    later = [trial(n, flat(0.05)) for n in range(6, 13)]
    verdicts = policy(finish_share=1.0)([*finishing, *later])
    assert [v for v in verdicts if isinstance(v, GoOn)] == [GoOn("study-1-0003", Fate.PROMOTED)]
    failed = [replace(t, state=TrialState.FAILED) if t.stopped else t for t in finishing]
    assert not [v for v in policy(finish_share=1.0)([*failed, *later]) if isinstance(v, GoOn)]


def test_a_policy_decides_by_what_it_is_given_alone() -> None:
    one = policy(finish_share=0.5)
    trials = spread()
    assert one(trials) == one(list(trials)) == policy(finish_share=0.5)(trials)
    assert list(one(trials[:5])) == policy(finish_share=0.5)(trials[:5])


def test_never_stops_nobody() -> None:
    assert STOPPINGS["never"]({}) is never
    assert never(spread()) == ()


def test_trials_that_never_ran_or_never_were_evaluated_are_no_trouble() -> None:
    for name in STOPPINGS:
        assert list(policy(name)([trial(0, until_s=0.0), trial(1, until_s=0.0, state=TrialState.QUEUED)])) == []
        assert list(policy(name)([])) == []


def test_step_0_costs_nothing_and_is_no_rung() -> None:
    zero = Evaluation(0.0, 0.0, 0.0, 0.1)
    assert policy()([replace(t, evaluations=(zero,)) for t in spread()]) == []
