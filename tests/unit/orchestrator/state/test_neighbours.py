"""The loop learns who slows down whom on a simulated device, and undoes sharing that does no good."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.simulated import Script, SimulatedCluster
from orchestrator.events import Launch
from orchestrator.interference import Interference, Rules
from orchestrator.schema import Outcome, TrialState
from tests.unit.orchestrator.builders import device
from tests.unit.orchestrator.rig import CLUSTER, Rig

ALONE_S = 100.0
# Short, so that a test needs few steps; nothing is set apart unless a test wants it.
RULES = Rules(apart_after_s=1e9)


def script(launch: Launch) -> Script:
    """Reports at every step, checkpoints at every fifth one."""
    steps = launch.stage.budget_steps
    reports = {step: {"train/loss": 1.0} for step in range(steps + 1)}
    return Script(
        duration_s=ALONE_S, reports=reports, saves=range(0, steps, 5), outcome=Outcome(metrics={"accuracy": 0.5})
    )


def rig(slower: float, *, devices: int = 1, rules: Rules = RULES) -> Rig:
    """Whoever sits beside one other takes `slower` times as long."""

    def slowdown(launch: Launch, others: Sequence[Launch]) -> float:
        return 1.0 + (slower - 1.0) * len(others)

    cluster = SimulatedCluster(devices=[device(i) for i in range(devices)], script=script, slowdown=slowdown)
    made = Rig(cluster=cluster)
    made.loop.state.interference = Interference(rules)
    return made


def staggered(made: Rig) -> None:
    """One trial, and once it has run alone for a while two others behind the same warm-up."""
    made.submit(1, "first", share=0.5, own=False)
    made.cycle_until(ALONE_S + 40.0)
    made.submit(3, "second", share=0.5, own=False)


def most_at_once(made: Rig, until: float) -> int:
    """How many bundles sat on one device at most."""
    most = 0
    while made.cluster.now() < until:
        made.cycle()
        most = max([most, *(free.residents for free in made.loop.state.room.free())])
    return most


def test_sharing_that_is_slower_than_one_after_the_other_is_undone_and_stays_undone() -> None:
    made = rig(slower=3.0)
    staggered(made)
    made.cycle_until(300.0)
    (bar,) = made.loop.state.interference.bars
    assert bar.kinds == ("main", "main")
    made.cycle_until(305.0)
    assert most_at_once(made, 800.0) == 1
    made.run("first", "second")
    assert set(made.states("first") + made.states("second")) == {TrialState.COMPLETED}


def test_who_was_undone_goes_on_from_its_checkpoint_and_is_not_charged_a_preemption() -> None:
    made = rig(slower=3.0)
    staggered(made)
    made.run("first", "second")
    assert {trial.preemptions for study in ("first", "second") for trial in made.store.trials(study)} == {0}
    entries = [entry for entry in made.store.journal(0, 1000) if entry.payload.get("why", "").startswith("stopped")]
    assert len(entries) == 1
    assert "sharing is undone: main and main on one device get through 0." in entries[0].payload["why"]


def test_it_is_done_sooner_than_if_they_had_gone_on_together() -> None:
    ends = []
    for rules in (RULES, replace(RULES, least_slices=10**6)):
        made = rig(slower=3.0, rules=rules)
        staggered(made)
        made.run("first", "second")
        ends.append(made.cluster.now())
    assert ends[0] < 0.85 * ends[1]


def test_sharing_that_gains_goes_on() -> None:
    made = rig(slower=1.2)
    staggered(made)
    made.run("first", "second")
    assert made.loop.state.interference.bars == ()
    assert all("stopped" not in entry.payload.get("why", "") for entry in made.store.journal(0, 1000))
    (found, *_) = [t for t in made.loop.state.interference.table() if t.kinds == ("main", "main")]
    assert found.throughput == pytest.approx(2 / 1.2, rel=0.15)


def test_a_cap_is_kept_also_where_sharing_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CLUSTER, "max_slowdown_per_trial", 1.15)
    made = rig(slower=1.4)
    staggered(made)
    made.cycle_until(300.0)
    (bar,) = made.loop.state.interference.bars
    assert bar.reason.endswith("more than cluster.max_slowdown_per_trial=1.15")
    made.cycle_until(305.0)
    assert most_at_once(made, 400.0) == 1


def test_a_cap_keeps_nobody_apart_who_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made = rig(slower=1.4)
    staggered(made)
    monkeypatch.setitem(CLUSTER, "max_slowdown_per_trial", 1.15)
    made.submit(4, "capped", share=0.5, own=False)  # three of them run already, for others
    made.cycle_until(220.0)
    assert [t.slowdowns[0].slices for t in made.loop.state.interference.table() if t.kinds == ("main", "main")] > [5]
    assert made.loop.state.interference.bars == ()
    assert made.loop.state.room.free()[0].residents == 2
    made.run("first", "second", "capped")


def test_the_other_device_is_free_to_take_whoever_left() -> None:
    made = rig(slower=3.0, devices=2)
    made.submit(1, "first", share=0.5)
    made.cycle_until(ALONE_S + 40.0)
    made.submit(1, "second", share=0.5)
    made.cycle_until(300.0)
    residents = [free.residents for free in made.loop.state.room.free()]
    assert residents == [1, 1]


def test_where_nobody_is_ever_alone_one_is_set_apart_and_then_all_are() -> None:
    made = rig(slower=3.0, rules=Rules(apart_after_s=60.0))
    made.submit(8, share=0.5)
    made.cycle_until(ALONE_S + 200.0)
    bars = {bar.kinds for bar in made.loop.state.interference.bars}
    assert bars == {("main", "main")}
    made.cycle_until(ALONE_S + 205.0)
    assert most_at_once(made, 600.0) == 1
    made.run()
    assert set(made.states()) == {TrialState.COMPLETED}
