"""Studies of RL and SFT trials in antiphase, on simulated devices in virtual time."""

from collections.abc import Sequence
from dataclasses import replace

from cluster.simulated import Script, SimulatedCluster
from orchestrator.events import Launch, NodeJoined, RecordStudy, RecordTrial, StudySubmitted
from orchestrator.interference import Interference, Rules
from orchestrator.schema import Command, CommandKind, Demand, DeviceKind, Outcome, Stage, TrialState
from orchestrator.state import SchedulerState
from tests.unit.orchestrator.builders import device, stage, study, trials, variant
from tests.unit.orchestrator.rig import CLUSTER, Rig

PHASES = {"grpo": ["rollout", "learn"], "sft": ["learn"]}
GIB = 2**30


def stage_of(algorithm: str, number: int, steps: int = 30) -> Stage:
    config = {"algorithm": {"name": algorithm, "phases": PHASES[algorithm]}}
    return replace(stage(f"{algorithm}@{number}", steps=steps), config=config)


def submit(rig: Rig, *algorithms: str, share: float = 0.5, cap: float = 0.0) -> None:
    at = rig.cluster.now()
    cluster = CLUSTER | {"share_per_trial": share, "max_slowdown_per_trial": cap}
    config = {"cluster": cluster, "stopping": {"name": "never"}, "study": {}}
    made = replace(study("study-1", at), config=config, device_kind=None)
    asked = trials([variant(stage_of(name, number)) for number, name in enumerate(algorithms)], "study-1", at)
    command = Command(command_id=0, at=at, author="me", kind=CommandKind.SUBMIT, target="study-1")
    rig.store.submit(
        command,
        RecordStudy(study=made),
        [RecordTrial(trial=replace(trial, queued_at=at), was=None, at=at) for trial in asked],
    )


def ran_together(rig: Rig) -> set[tuple[str, ...]]:
    """The algorithms of those that sat on one device at the same time, as often as that was so."""
    seen: set[tuple[str, ...]] = set()
    while not rig.loop.finished("study-1"):
        rig.cycle()
        there: dict[str, list[str]] = {}
        for bundle in rig.loop.state.bundles.values():
            there.setdefault(bundle.launch.placement.device_ids[0], []).append(bundle.launch.stage.name)
        seen |= {tuple(sorted(names)) for names in there.values()}
    return seen


def test_an_rl_trial_sits_beside_an_sft_one_though_others_wait_in_front_and_never_two_sft_ones() -> None:
    rig = Rig(devices=1, antiphase=True)
    submit(rig, "sft", "sft", "sft", "grpo", "grpo", share=0.25)
    seen = ran_together(rig)
    assert seen <= {("grpo", "sft"), ("grpo", "grpo"), ("sft",), ("grpo",), ()}
    assert ("grpo", "sft") in seen
    assert rig.states() == [TrialState.COMPLETED] * 5


def test_where_phases_are_off_who_shares_a_device_is_the_packings_business_alone() -> None:
    rig = Rig(devices=1)
    submit(rig, "sft", "sft", "sft", "sft", share=0.25)
    assert ("sft",) * 4 in ran_together(rig)
    (line, *_) = rig.store.allocations()
    assert line.share == 0.25


def slow_company(slower: float) -> Rig:
    """Whoever sits beside another takes so many times as long."""

    def slowdown(_: Launch, others: Sequence[Launch]) -> float:
        return 1.0 + (slower - 1.0) * len(others)

    def script(launch: Launch) -> Script:
        steps = launch.stage.budget_steps
        reports = {step: {"train/loss": 1.0} for step in range(steps + 1)}
        return Script(duration_s=100.0, reports=reports, saves=range(0, steps, 5), outcome=Outcome(metrics={}))

    rig = Rig(
        antiphase=True, cluster=SimulatedCluster(devices=[device(0)], script=script, slowdown=slowdown)
    )  # fmt: skip
    rig.loop.state.interference = Interference(Rules(apart_after_s=60.0))
    return rig


def test_a_pair_that_is_slower_than_one_after_the_other_is_measured_as_one_in_antiphase_and_parted() -> None:
    rig = slow_company(3.0)
    submit(rig, *["grpo"] * 4)
    seen = ran_together(rig)
    assert ("grpo", "grpo") in seen
    (found,) = rig.loop.state.interference.table()
    assert found.kinds == ("grpo in antiphase", "grpo in antiphase")
    assert rig.loop.state.interference.conflicts() == {"grpo in antiphase": ("grpo in antiphase",)}
    assert rig.states() == [TrialState.COMPLETED] * 4


def test_a_slowdown_beyond_the_cap_parts_a_pair_that_gains() -> None:
    rig = slow_company(1.6)
    submit(rig, *["grpo"] * 4, cap=1.3)
    ran_together(rig)
    kind = "grpo in antiphase (at most 1.3 times)"
    assert rig.loop.state.interference.conflicts() == {kind: (kind,)}


def test_measured_bars_come_on_top_of_those_of_phases() -> None:
    rig = slow_company(3.0)
    submit(rig, "sft", "grpo", "grpo", "grpo", "sft")
    ran_together(rig)
    conflicts = rig.loop.state.room.now().conflicts
    assert "sft in antiphase" in conflicts["sft in antiphase"]


# --- parking ---------------------------------------------------------------------------------------------------------


def parked_state(memory_gib: int) -> SchedulerState:
    state = SchedulerState(max_attempts=2, antiphase=True)
    gpu = replace(device(0, memory_bytes=80 * GIB), kind=DeviceKind.CUDA)
    state.handle(NodeJoined(at=0.0, node_id="node-a", devices=(gpu,)))
    asked = trials([variant(stage_of("grpo", number)) for number in range(2)])
    demand = Demand(
        devices=1, share=0.5, memory_bytes=memory_gib * GIB, kind="grpo", phases=("rollout", "learn"),
        parkable_bytes=24 * GIB,
    )  # fmt: skip
    demands = {stage.key: demand for trial in asked for stage in trial.variant.stages}
    state.handle(StudySubmitted(at=0.0, study=study(), trials=asked, demands=demands))
    return state


def test_where_memory_is_short_for_two_that_learn_they_park() -> None:
    state = parked_state(50)
    assert [(r.demand.memory_bytes, r.demand.away_bytes) for r in state.snapshot(1.0).queue] == [
        (40 * GIB, 10 * GIB)
    ] * 2  # fmt: skip


def test_a_smaller_device_that_joins_ends_the_parking() -> None:
    state = parked_state(50)
    assert all(request.demand.away_bytes for request in state.snapshot(1.0).queue)
    state.handle(NodeJoined(at=1.0, node_id="node-b", devices=(device(0, "node-b", 40 * GIB),)))
    assert [request.demand.memory_bytes for request in state.snapshot(1.0).queue] == [50 * GIB] * 2
