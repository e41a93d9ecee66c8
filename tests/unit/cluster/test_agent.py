"""What the contract can't reach: a dying forkserver, a bad preload, adoption, and that nothing outlives anyone."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from cluster.agent import NodeAgent
from cluster.agent_config import AgentConfig
from cluster.forkserver_client import ForkserverProcess
from cluster.inventory import take_inventory
from orchestrator.events import (
    BundleStopped,
    NodeJoined,
    StageCompleted,
    StageMeasured,
    StageRaised,
    StageReported,
    WorkerLost,
)
from orchestrator.ports import ClusterUnavailable
from tests.unit.cluster.launches import ROOT, make_launch, wait_for


def make_config(home, preload=(), **options):
    return AgentConfig.of_node(
        "node",
        take_inventory(),
        0,
        home=home,
        artifacts=home / "artifacts",
        preload=preload,
        python_path=(ROOT,),
        memory_sample_s=0.05,
        **options,
    )


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path)


@pytest.fixture
def agent(config):
    agent = NodeAgent(config)
    agent.start()
    yield agent
    agent.close()


def gone(pid, patience_s=5.0):
    deadline = time.monotonic() + patience_s
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def children(pid=None):
    return {process.pid for process in psutil.Process(pid).children(recursive=True)}


def test_bundles_that_take_turns_on_a_device_are_never_in_one_phase_together(agent, config):
    device = config.devices[0]
    for name in ("a", "b"):
        launch = make_launch((device,), "take_turns", bundle_id=name)
        turns = replace(launch.placement, share=0.5, phases=("rollout", "learn"))
        agent.launch(replace(launch, placement=turns))
    ends = {}
    while len(ends) < 2:
        ends |= {event.bundle_id: event for event in agent.poll(1.0) if isinstance(event, StageCompleted | StageRaised)}
    assert all(isinstance(event, StageCompleted) for event in ends.values()), ends
    lines = (config.artifacts / "cache" / "turns").read_text().splitlines()
    inside = set()
    for sign, phase in map(str.split, lines):
        assert (phase in inside) == (sign == "-")
        inside ^= {phase}
    assert len(lines) == 2 * 10 * 2 * 2


def test_what_the_processes_of_a_gang_take_comes_as_one_event(agent, config):
    devices = config.devices[:2]
    agent.launch(make_launch(devices, "say_what_it_takes", bundle_id="b1"))
    measured = wait_for(agent, "b1", StageMeasured)
    assert (measured.memory_bytes, measured.host_memory_bytes, measured.utilisation) == (
        len(devices) * 1000,
        len(devices) * 2000,
        0.5,
    )
    assert isinstance(wait_for(agent, "b1"), StageCompleted)


def test_a_dead_forkserver_loses_its_bundles_and_is_replaced(agent, config):
    agent.launch(make_launch(config.devices[:1], "leave_a_grandchild", bundle_id="b1", config={"stay": True}))
    grandchild = int(wait_for(agent, "b1", StageReported).metrics["grandchild"])
    server = agent._server.pid
    workers = children(server)
    assert grandchild in workers
    os.kill(server, signal.SIGKILL)
    lost = wait_for(agent, "b1")
    assert isinstance(lost, WorkerLost)
    assert "its forkserver died" in lost.reason
    assert lost.blameless
    assert all(gone(pid) for pid in workers)
    agent.launch(make_launch(config.devices[:1], bundle_id="b2"))
    assert isinstance(wait_for(agent, "b2"), StageCompleted)
    assert agent._server.pid != server


def test_launches_wait_for_the_preload_and_can_be_stopped_meanwhile(agent, config):
    agent.launch(make_launch(config.devices[:1], bundle_id="b1"))
    agent.launch(make_launch(config.devices[:1], "until_stopped", bundle_id="b2"))
    agent.stop("b2", "pruned")
    assert isinstance(wait_for(agent, "b2"), BundleStopped)
    agent.launch(make_launch(config.devices[:1], bundle_id="b3"))
    assert isinstance(wait_for(agent, "b3"), StageCompleted)


def test_the_node_joins_once_it_can_run_something(agent, config):
    agent.wait_ready(30.0)
    (joined,) = agent.poll(1.0)
    assert isinstance(joined, NodeJoined)
    assert joined == config.joined(joined.at)
    assert joined.devices == config.devices


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("no.such.module", "ModuleNotFoundError: No module named 'no'"),
        ("tests.unit.cluster.leaves_a_thread", "left 2 threads running"),
        ("tests.unit.cluster.makes_a_cuda_context", "made a CUDA context"),
    ],
)
def test_a_preload_that_can_not_be_forked_from(tmp_path, module, message):
    config = make_config(tmp_path, (module,))
    agent = NodeAgent(config)
    agent.start()
    try:
        with pytest.raises(ClusterUnavailable, match=message):
            agent.wait_ready(30.0)
        agent.launch(make_launch(config.devices[:1]))
        assert isinstance(wait_for(agent, "b"), WorkerLost)
    finally:
        agent.close()


def test_a_forkserver_started_by_someone_else(config):
    server = ForkserverProcess(config.forkserver())
    agent = NodeAgent(config, server.address)
    agent.start()
    try:
        agent.launch(make_launch(config.devices[:1]))
        assert isinstance(wait_for(agent, "b"), StageCompleted)
    finally:
        agent.close()
        server.kill()
    assert server.ended()
    assert not os.path.exists(server.address)


SECRETS = {
    "ORCHESTRATOR_STORE": "postgresql://user:secret@host/db",
    "ORCHESTRATOR_TOKEN": "secret",
    "MLFLOW_TRACKING_PASSWORD": "secret",
    "ANY_PASSWORD": "secret",
}


def test_the_services_secrets_reach_no_stage(tmp_path, monkeypatch):
    for name, value in {**SECRETS, "HF_TOKEN": "for downloads"}.items():
        monkeypatch.setenv(name, value)
    config = make_config(tmp_path)
    agent = NodeAgent(config)
    agent.start()
    try:
        agent.launch(make_launch(config.devices[:1], "print_environment"))
        assert isinstance(wait_for(agent, "b"), StageCompleted)
    finally:
        agent.close()
    seen = json.loads((config.logs / "b.log").read_text())
    assert not SECRETS.keys() & seen.keys()
    assert seen["HF_TOKEN"] == "for downloads"


def test_a_line_is_in_the_log_as_soon_as_it_is_printed(agent, config):
    agent.launch(make_launch(config.devices[:1], "print_and_stay"))
    wait_for(agent, "b", StageReported)
    assert (config.logs / "b.log").read_text() == "printed by the stage\n"


def test_a_stage_config_that_is_no_plain_data_is_the_stages_fault(agent, config):
    agent.launch(make_launch(config.devices[:1], config={"lr": object()}))
    raised = wait_for(agent, "b")
    assert isinstance(raised, StageRaised)
    assert "object can't be sent to a worker" in raised.error


def test_what_a_stage_leaves_behind_ends_with_it(agent, config):
    agent.launch(make_launch(config.devices[:1], "leave_a_grandchild"))
    pid = int(wait_for(agent, "b", StageReported).metrics["grandchild"])
    assert isinstance(wait_for(agent, "b"), StageCompleted)
    assert gone(pid)


def test_close_leaves_no_process_no_output_and_no_temporary_folder(config):
    agent = NodeAgent(config)
    agent.start()
    agent.launch(make_launch(config.devices[:1], "leave_a_grandchild", config={"stay": True}))
    pid = int(wait_for(agent, "b", StageReported).metrics["grandchild"])
    address = agent._process.address
    agent.close()
    agent.close()
    assert gone(pid)
    assert children() == set()
    assert list((config.artifacts / "incoming").iterdir()) == []
    assert not os.path.exists(os.path.dirname(address))


def test_closing_an_agent_that_never_started(config):
    before = children()
    NodeAgent(config).close()
    assert children() == before


DRIVER = """
import sys, time
from pathlib import Path
from orchestrator.events import StageReported
from tests.unit.cluster.launches import make_launch, wait_for
from tests.unit.cluster.test_agent import NodeAgent, make_config

config = make_config(Path(sys.argv[1]))
agent = NodeAgent(config)
agent.start()
agent.launch(make_launch(config.devices[:1], "leave_a_grandchild", config={"stay": True}))
print(int(wait_for(agent, "b", StageReported).metrics["grandchild"]), agent._server.pid, flush=True)
time.sleep(600)
"""


def test_nothing_outlives_an_agent_that_is_killed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": ROOT}
    command = [sys.executable, "-c", DRIVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as driver:
        grandchild, server = map(int, driver.stdout.readline().split())
        driver.kill()
    assert gone(server)
    assert gone(grandchild)
