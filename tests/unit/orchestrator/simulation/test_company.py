"""company: who slows whom down in a simulation, and what the loop learns of it."""

import pytest

from orchestrator.config import ConfigError
from orchestrator.events import Launch
from orchestrator.packing.frontier import Frontier
from orchestrator.schema import Demand, Placement, TraceStage, TraceTrial
from orchestrator.simulation.company import Company
from orchestrator.simulation.composing import compose_runs
from orchestrator.simulation.submissions import TracedStage
from orchestrator.snapshot import Room, Snapshot
from tests.unit.orchestrator.ordering.requests import waiting
from tests.unit.orchestrator.simulation.workloads import node, simulated, simulation

TRUTH = Company({"rollout": {"rollout": 0.5, "learn": 0.25}, "learn": {"rollout": 0.125, "learn": 1.25}})
MIXED = {"rollout": 0.5, "learn": 0.5}
SLOWS = ("interference=post_training",)


def launch(name: str, *devices: str, share: float = 0.5, phases: dict[str, float] | None = None) -> Launch:
    stage = TracedStage(
        name=name,
        key=name,
        parent_key="",
        entrypoint="",
        config={},
        budget_steps=10,
        phases=phases or {"learn": 1.0},
    )
    placement = Placement(stage_key=name, device_ids=devices, share=share, memory_bytes=0)
    return Launch(
        bundle_id=name, study_id="s", stage=stage, trial_ids=(name,), placement=placement, devices=(), attempt=0
    )


def test_two_of_equal_share_feel_each_other_by_their_phases() -> None:
    assert TRUTH(launch("a", "d"), [launch("b", "d")]) == 2.25
    # 0.25 x (0.5 + 0.25 + 0.125 + 1.25), worked out by hand.
    assert TRUTH(launch("a", "d", phases=MIXED), [launch("b", "d", phases=MIXED)]) == 1.53125


def test_a_neighbour_is_felt_by_its_share_of_ones_own() -> None:
    assert TRUTH(launch("a", "d", share=0.25), [launch("b", "d", share=0.5)]) == 1 + 1.25 * 2
    assert TRUTH(launch("a", "d", share=0.5), [launch("b", "d", share=0.25)]) == 1 + 1.25 / 2


def test_a_gang_waits_for_its_slowest_device() -> None:
    gang = launch("a", "d", "e")
    assert TRUTH(gang, [launch("b", "d"), launch("c", "e"), launch("f", "e", share=0.25)]) == 1 + 1.25 * 1.5


def test_nobody_alone_is_slowed_down() -> None:
    assert TRUTH(launch("a", "d"), []) == 1.0


def _trial(name: str, kind: str, at: float, duration_s: float, share: float = 0.5) -> TraceTrial:
    demand = Demand(devices=1, share=share, memory_bytes=0, kind=kind)
    phases = {"learn": duration_s} if kind == "sft" else {"rollout": 0.7 * duration_s, "learn": 0.3 * duration_s}
    stage = TraceStage(name=kind, demand=demand, duration_s=duration_s, phases=phases)
    return TraceTrial(trial_id=name, study_id=name, submitted_at=at, stages=(stage,), line=2)


def test_two_that_learn_on_one_device_take_as_long_as_their_pace_says() -> None:
    # c(learn | learn) is 1.2: both take 2.2 times as long, and end together, before anything is learned of it.
    run = simulated([_trial("a", "sft", 0.0, 200.0), _trial("b", "sft", 0.0, 200.0)], [node()], *SLOWS)
    assert run.makespan_s == pytest.approx(440.0)
    assert run.experiments_per_gpu_hour == pytest.approx(2 / (440 / 3600))


def test_the_loop_learns_from_reports_what_slows_whom_down_and_undoes_it() -> None:
    learning = [_trial(f"{n}", "sft", 0.0, 20_000.0) for n in range(2)]
    alone = [_trial("alone", "sft", 0.0, 5_000.0, share=1.0)]
    run = simulation([*alone, *learning], [node()], *SLOWS, "interference.slowdowns.learn.learn=1.6")
    run.to_the_end()
    result = run.result({}, 0.0)
    assert result.completed == 3
    assert run.recorder.starts > 3, "the younger one left, and came back"
    # Side by side all the way they would have taken 5,000 + 2.6 x 20,000 s, one after the other 45,000 s.
    assert result.makespan_s is not None
    assert 44_900.0 < result.makespan_s < 57_000.0


def test_frontier_puts_work_beside_whom_it_was_measured_to_go_with() -> None:
    room = Room([node("a", 2)])
    for number, kind in enumerate(("learns", "rolls")):
        room.take(Placement(stage_key=kind, device_ids=(f"a/{number}",), share=0.5, memory_bytes=0), kind)
    asked = waiting("x", share=0.5, memory_bytes=0)
    learns = Demand(devices=1, share=0.5, memory_bytes=0, kind="learns")
    request = type(asked)(stage_key="x", study_id="s", trial_ids=("x",), demand=learns, queued_at=0.0, expected_s=None)

    def device() -> tuple[str, ...]:
        (placement,) = Frontier()(Snapshot(at=1.0, room=room, queue=(request,)), [request])
        return placement.device_ids

    assert device() == ("a/0",), "as long as nothing is known the first of equals"
    room.know({("learns", "learns"): 1.2, ("learns", "rolls"): 0.2, ("rolls", "learns"): 0.2})
    assert device() == ("a/1",)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("interference.slowdowns.learn.learn=-1", r"interference\.slowdowns\.learn\.learn=-1"),
        ("interference.step_s=0", r"interference\.step_s=0"),
        ("cluster.slowdown=math:sqrt", "leave it empty, or use interference=none"),
    ],
)
def test_what_makes_no_sense_is_refused(override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compose_runs(["interference=post_training", override])
