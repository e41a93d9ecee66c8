"""What a store remembers of its studies, as a trace."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.simulated import Script
from cluster.traces.csv import read
from orchestrator.config import ConfigError
from orchestrator.events import Launch
from orchestrator.schema import CommandKind, DeviceKind
from orchestrator.simulation.export import Export, export
from orchestrator.simulation.trace_files import write_nodes, write_trials
from orchestrator.store.memory import MemoryStore
from orchestrator.variants import variant_to_data
from tests.unit.orchestrator.builders import GIB
from tests.unit.orchestrator.rig import Rig, ten_seconds


@pytest.fixture
def rig() -> Rig:
    """Two devices on which a study of three trials behind one warm-up has run."""
    rig = Rig(start_at=1000.0)
    rig.submit(3, tenant="reasoning", priority=7, share=0.5, memory_gib=2.0)
    rig.run()
    return rig


def exported(rig: Rig) -> Export:
    return export(rig.store)


def test_every_trial_has_its_stages_in_order_with_what_they_held(rig: Rig) -> None:
    for trial in exported(rig).trace.trials:
        assert [(stage.name, stage.duration_s) for stage in trial.stages] == [
            ("warmup", pytest.approx(10.0)),
            ("main", pytest.approx(10.0)),
        ]


def test_a_stage_that_was_shared_has_one_key(rig: Rig) -> None:
    trials = exported(rig).trace.trials
    assert len({trial.stages[0].key for trial in trials}) == 1
    assert len({trial.stages[1].key for trial in trials}) == 3


def test_tenant_priority_and_demand_are_those_of_the_study(rig: Rig) -> None:
    trial = exported(rig).trace.trials[0]
    assert (trial.study_id, trial.tenant, trial.priority) == ("study-1", "reasoning", 7)
    demand = trial.stages[0].demand
    assert (demand.devices, demand.share, demand.memory_bytes) == (1, 0.5, 2 * GIB)


def test_time_counts_from_the_first_submission(rig: Rig) -> None:
    rig.cycle_until(rig.cluster.now() + 50.0)
    later = rig.cluster.now()
    rig.submit(1, "study-2")
    rig.run("study-2")
    found = exported(rig)
    assert found.began_at == pytest.approx(1000.0, abs=1.0)
    assert [round(trial.submitted_at) for trial in found.trace.trials] == [0, 0, 0, round(later - found.began_at)]


def test_only_the_named_studies_are_exported(rig: Rig) -> None:
    rig.submit(2, "study-2")
    rig.run("study-2")
    assert {trial.study_id for trial in export(rig.store, ["study-2"]).trace.trials} == {"study-2"}


def test_the_nodes_are_those_that_the_leader_recorded(rig: Rig) -> None:
    (node,) = exported(rig).trace.nodes
    assert [device.device_id for device in node.devices] == ["node-a/cpu0", "node-a/cpu1"]
    assert node.devices[0].kind is DeviceKind.CPU


def test_devices_that_are_gone_are_those_that_the_ledger_names(rig: Rig) -> None:
    before = exported(rig).trace.nodes
    rig.loop.lose_cluster("the service ends")
    assert rig.store.devices() == []
    assert exported(rig).trace.nodes == before


def test_runs_that_were_lost_or_made_room_add_up() -> None:
    lost: list[str] = []

    def lost_once(launch: Launch) -> Script:
        first = launch.stage.name == "main" and not lost
        if first:
            lost.append(launch.bundle_id)
            return Script(duration_s=10.0, loses="gone", ends_at=0.5)
        return ten_seconds(launch)

    rig = Rig(lost_once)
    rig.submit(1)
    rig.run()
    (trial,) = exported(rig).trace.trials
    assert trial.stages[1].duration_s == pytest.approx(15.0)


def test_a_stage_from_an_earlier_study_outside_the_selection_is_left_out() -> None:
    rig = Rig()
    rig.submit(1, "study-1", own=False)
    rig.run("study-1")
    rig.submit(1, "study-2", own=False)
    rig.run("study-2")
    (alone,) = export(rig.store, ["study-2"]).trace.trials
    assert [stage.name for stage in alone.stages] == ["main"]
    first, second = export(rig.store).trace.trials
    assert second.stages[0] == first.stages[0]
    assert second.stages[0].name == "warmup"


def test_a_shared_stage_has_the_demand_of_the_study_that_ran_it() -> None:
    rig = Rig()
    rig.submit(1, "study-1", own=False, share=0.5)
    rig.run("study-1")
    rig.submit(1, "study-2", own=False, share=0.25)
    rig.run("study-2")
    shares = [[stage.demand.share for stage in trial.stages] for trial in export(rig.store).trace.trials]
    assert shares == [[0.5, 0.5], [0.5, 0.25]]


def test_trials_that_never_ran_and_stages_that_still_run_are_counted() -> None:
    rig = Rig(devices=1)
    rig.submit(2)
    rig.cycle_until(15.0)
    found = exported(rig)
    assert found.running_stages == 1
    assert [[stage.name for stage in trial.stages] for trial in found.trace.trials] == [["warmup"], ["warmup"]]
    rig.submit(1, "study-2")
    rig.ask(CommandKind.CANCEL, "study-2")
    rig.run("study-2")
    assert exported(rig).idle_trials == 1


def test_a_cancelled_trial_counts_as_long_as_it_ran() -> None:
    rig = Rig(devices=1)
    rig.submit(1)
    rig.cycle_until(15.0)
    rig.ask(CommandKind.CANCEL, "study-1")
    rig.run()
    (trial,) = exported(rig).trace.trials
    assert [stage.name for stage in trial.stages] == ["warmup", "main"]
    assert 3.0 < trial.stages[1].duration_s < 8.0


def test_what_is_exported_is_what_the_reader_reads(rig: Rig, tmp_path: Path) -> None:
    trace = exported(rig).trace
    write_trials(tmp_path / "history.csv", trace.trials)
    write_nodes(tmp_path / "history.nodes.csv", trace.nodes)
    again = read(file=str(tmp_path / "history.csv"), nodes=str(tmp_path / "history.nodes.csv"))
    assert [trial.stages for trial in again.trials] == [trial.stages for trial in trace.trials]
    assert again.nodes == trace.nodes


def test_an_unknown_study_is_refused(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="study=nope: no such study"):
        export(rig.store, ["nope"])


def test_a_store_in_which_nothing_ran_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"study=\(all\): nothing of it has run to an end yet"):
        export(MemoryStore())


def test_two_studies_that_ran_the_same_last_stage_have_two_runs_of_it() -> None:
    rig = Rig()
    for study_id in ("study-1", "study-2"):
        rig.submit(1, study_id, own=False)
        rig.run(study_id)
    first, second = (trial.stages[-1] for trial in export(rig.store).trace.trials)
    assert (first.duration_s, second.duration_s) == (pytest.approx(10.0), pytest.approx(10.0))
    assert second.key == f"{first.key}#2"


def test_a_stage_that_was_extended_takes_what_it_took_before_and_after() -> None:
    rig = Rig(devices=1)
    rig.submit(1)
    rig.run()
    (trial,) = rig.store.trials("study-1")
    longer = replace(trial.variant.stages[-1], key="longer", budget_steps=60)
    variant = replace(trial.variant, key="longer", stages=(*trial.variant.stages[:-1], longer))
    rig.ask(CommandKind.EXTEND, trial.trial_id, variant=variant_to_data(variant))
    rig.cycle()
    rig.run()
    (trial,) = exported(rig).trace.trials
    assert [(stage.name, stage.duration_s) for stage in trial.stages] == [
        ("warmup", pytest.approx(10.0)),
        ("main", pytest.approx(10.0 + 5.0)),  # from the checkpoint half-way of the longer one
    ]
