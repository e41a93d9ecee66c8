"""What is trained once, on a simulated cluster, in device-seconds: warm-ups, trunks, what two studies ask for."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from cluster.simulated import Script
from orchestrator.events import Launch, RecordStudy, RecordTrial
from orchestrator.schema import Command, CommandKind, Outcome, Trial, TrialState, Variant
from orchestrator.sweep import compose_study
from orchestrator.sweep.trunks import share_trunks
from orchestrator.throughput import throughput
from orchestrator.variants import variant_to_data
from tests.unit.orchestrator.builders import stage, study, trials, variant
from tests.unit.orchestrator.rig import CLUSTER, Rig

STEP_S = 0.5


def by_steps(launch: Launch) -> Script:
    """Half a second a step, told every ten of them."""
    steps = launch.stage.budget_steps
    reports = {step: {"train/loss": 1.0 / step} for step in range(10, steps + 1, 10)}
    outcome = Outcome(metrics={"accuracy": steps / 1000, "steps": float(steps)})
    return Script(duration_s=STEP_S * steps, reports=reports, outcome=outcome)


def submit(rig: Rig, variants: Sequence[Variant], study_id: str = "study-1", *, reuse: bool = True) -> None:
    at = rig.cluster.now()
    config = {"cluster": CLUSTER, "stopping": {"name": "never"}, "study": {"reuse_stages": reuse}}
    made = replace(study(study_id, at), config=config, device_kind=None)
    asked = [replace(trial, queued_at=at) for trial in trials(variants, study_id, at)]
    command = Command(command_id=0, at=at, author="me", kind=CommandKind.SUBMIT, target=study_id)
    rig.store.submit(command, RecordStudy(study=made), [RecordTrial(trial=t, was=None, at=at) for t in asked])


def held_s(rig: Rig, study_id: str | None = None) -> float:
    return sum(line.device_seconds(rig.cluster.now()) for line in rig.store.allocations(study_id))


def launches(rig: Rig) -> list[str]:
    return [line.stage_key for line in rig.store.allocations()]


def alone(made: Sequence[Variant]) -> list[Variant]:
    """The variants as if no two had a stage in common."""
    variants = []
    for number, one in enumerate(made):
        stages = [replace(s, key=f"{s.key}#{number}", parent_key=f"{s.parent_key}#{number}") for s in one.stages]
        variants.append(replace(one, key=stages[-1].key, stages=tuple(stages)))
    return variants


def behind_warm_ups() -> list[Variant]:
    """4 seeds x 16 RL variants behind one warm-up per seed."""
    return [
        variant(warmup, stage(f"grpo@{number}", warmup, steps=30), seed=seed)
        for seed in range(4)
        for warmup in (stage(f"warmup@{seed}", steps=20),)
        for number in range(16)
    ]


def test_sixty_four_variants_behind_four_warm_ups_hold_what_sixty_warm_ups_take_less() -> None:
    held = []
    for variants in (behind_warm_ups(), alone(behind_warm_ups())):
        rig = Rig(by_steps, devices=8)
        submit(rig, variants)
        rig.run()
        assert rig.states() == [TrialState.COMPLETED] * 64
        held.append(held_s(rig))
    shared, unshared = held
    warm_up_s, rest_s = 20 * STEP_S, 30 * STEP_S
    assert unshared == pytest.approx(64 * (warm_up_s + rest_s))  # 1600 device-seconds
    assert shared == pytest.approx(4 * warm_up_s + 64 * rest_s)  # 1000
    assert unshared - shared == pytest.approx(60 * warm_up_s)  # 37.5 %, the warm-ups' share being 40 %


def test_an_earlier_studys_warm_ups_are_not_run_again() -> None:
    rig = Rig(by_steps, devices=8)
    submit(rig, behind_warm_ups(), "one")
    rig.run("one")
    submit(rig, behind_warm_ups(), "other")
    rig.run("one", "other")
    assert held_s(rig, "other") == pytest.approx(64 * 30 * STEP_S)


def test_two_studies_that_ask_for_one_stage_at_once_run_it_once_and_pay_their_parts() -> None:
    rig = Rig(by_steps, devices=8)
    warmup = stage("warmup", steps=20)
    for study_id in ("one", "other"):
        submit(rig, [variant(warmup, stage(f"{study_id}@{n}", warmup, steps=30)) for n in range(2)], study_id)
    rig.run("one", "other")
    assert launches(rig).count(warmup.key) == 1
    paid = [trial.gpu_seconds for name in ("one", "other") for trial in rig.store.trials(name)]
    assert paid == [pytest.approx(20 * STEP_S / 4 + 30 * STEP_S)] * 4


# --- trunks ----------------------------------------------------------------------------------------------------------


def lengths(*overrides: str, ends: Sequence[int] = ()) -> tuple[Variant, ...]:
    made = compose_study(["recipe=from_scratch", "algorithm=grpo", *overrides]).variants
    return share_trunks(made, lambda trunk: set(ends))


def finished(variants: Sequence[Variant], rig: Rig | None = None, study_id: str = "study-1") -> tuple[Rig, list[Trial]]:
    rig = rig or Rig(by_steps, devices=4)
    submit(rig, variants, study_id)
    rig.run(study_id)
    return rig, rig.store.trials(study_id)


def test_a_trunk_is_held_once_and_each_step_of_it_once() -> None:
    rig, done = finished(lengths("algorithm.max_steps=100,200,50"))
    assert [trial.state for trial in done] == [TrialState.COMPLETED] * 3
    assert held_s(rig) == pytest.approx(200 * STEP_S)  # 350 without
    assert [trial.metrics["accuracy"] for trial in done] == [0.1, 0.2, 0.05]
    numbers = throughput(done, rig.store.allocations(), rig.cluster.now())
    assert numbers["completed_equivalent_per_gpu_hour"] == pytest.approx(3 / (100 / 3600))
    assert [trial.budget_fraction for trial in done] == [1.0] * 3
    # Of 50 + 100 + 200 steps 200 were done.
    shares = [trial.reused_fraction * n for trial, n in zip(done, (100, 200, 50), strict=True)]
    assert sum(shares) == pytest.approx(150)


def test_the_decays_of_a_stable_phase_hold_it_once() -> None:
    wsd = ["optimizer.schedule=wsd", "algorithm.max_steps=200"]
    rig, _ = finished(lengths(*wsd, "optimizer.decay_steps=20,40,60", "optimizer.decay=linear,sqrt"))
    # 180 steps of trunk and six decays; 1200 without.
    assert held_s(rig) == pytest.approx((180 + 2 * (20 + 40 + 60)) * STEP_S)


def test_progress_and_budget_go_on_across_a_cut_and_every_step_is_told_once() -> None:
    rig = Rig(by_steps, devices=1)
    submit(rig, lengths("algorithm.max_steps=100,200"))
    seen = []
    while not rig.loop.finished("study-1"):
        rig.cycle()
        seen.append(rig.store.trials("study-1")[1].budget_fraction)
    assert seen == sorted(seen)
    assert {0.5, 0.75, 1.0} <= {round(fraction, 2) for fraction in seen}
    for trial, last in zip(rig.store.trials("study-1"), (100, 200), strict=True):
        points = (e.payload for e in rig.store.journal(0, 10_000, trial_id=trial.trial_id) if "step" in e.payload)
        series = [point["step"] for point in points if "train/loss" in point["metrics"]]
        assert series == list(range(10, last + 1, 10))


def test_a_later_study_goes_on_from_where_an_earlier_one_ended() -> None:
    rig, _ = finished(lengths("algorithm.max_steps=100"), study_id="short")
    rig, (longer,) = finished(lengths("algorithm.max_steps=160", ends=[100]), rig, "long")
    assert held_s(rig, "long") == pytest.approx(60 * STEP_S)
    assert longer.reused_fraction == pytest.approx(100 / 160)
    assert longer.metrics["accuracy"] == 0.16


def test_what_a_later_study_is_about_runs_even_if_an_earlier_one_ended_there() -> None:
    rig, _ = finished(lengths("algorithm.max_steps=100"), study_id="short")
    rig, _ = finished(lengths("algorithm.max_steps=100,160", ends=[100]), rig, "again")
    assert held_s(rig, "again") == pytest.approx(160 * STEP_S)


def test_an_end_whose_output_is_gone_is_made_again() -> None:
    rig, _ = finished(lengths("algorithm.max_steps=100"), study_id="short")
    variants = lengths("algorithm.max_steps=160", ends=[100])
    rig.cluster.damage_output(variants[0].stages[0].key)
    rig, _ = finished(variants, rig, "long")
    assert held_s(rig, "long") == pytest.approx(160 * STEP_S)


@pytest.mark.parametrize("halt", [20, 70])
def test_a_trial_that_is_extended_on_its_trunk_goes_on_from_where_it_was(halt: int) -> None:
    rig = Rig(by_steps, devices=1)
    submit(rig, lengths("algorithm.max_steps=100,200"))
    rig.cycle_until(halt)  # on the trunk, and behind it
    longer = rig.store.trials("study-1")[1]
    rig.ask(CommandKind.PAUSE, longer.trial_id)
    rig.cycle_until(halt + 2)
    (new,) = lengths("algorithm.max_steps=300")
    command = rig.ask(CommandKind.EXTEND, longer.trial_id, variant=variant_to_data(new))
    rig.run()
    assert rig.store.command(command).ok
    extended = rig.store.trial(longer.trial_id)
    assert extended.state is TrialState.COMPLETED
    assert extended.metrics["accuracy"] == 0.3
    if halt == 70:
        assert 100 < extended.variant.stages[-1].warm_step < 200
