"""Overrides become runs: by Hydra's grammar, every combination once."""

import subprocess
import sys

import pytest

from orchestrator.config import ConfigError
from orchestrator.simulation.composing import compose_base, compose_runs

TRACE = ("trace=alibaba2023", "trace.pods=none")


def told(*overrides):
    return [dict(run.swept) for run in compose_runs([*TRACE, *overrides])]


def test_nothing_swept_is_one_run():
    assert told() == [{}]


def test_lists_ranges_and_choices_are_swept_in_every_combination():
    assert told("packing=best_fit,exclusive", "seed=range(0,2)", "cluster.nodes=choice(1,2)") == [
        {"packing": packing, "seed": str(seed), "cluster.nodes": str(nodes)}
        for packing in ("best_fit", "exclusive")
        for seed in (0, 1)
        for nodes in (1, 2)
    ]


def test_values_reach_the_configs():
    runs = compose_runs([*TRACE, "packing=best_fit,exclusive", "ordering=fifo,shortest_first", "cluster.nodes=7"])
    assert [
        (r.config["packing"]["name"], r.config["ordering"]["name"], r.config["cluster"]["nodes"]) for r in runs
    ] == [
        ("best_fit", "fifo", 7),
        ("best_fit", "shortest_first", 7),
        ("exclusive", "fifo", 7),
        ("exclusive", "shortest_first", 7),
    ]


def test_the_last_of_two_overrides_of_one_key_counts():
    assert told("seed=1,2", "seed=3") == [{}]


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("packing=best_fot", r"packing=best_fot: did you mean best_fit"),
        ("cluster.nodez=3", r"cluster\.nodez=3: unknown key"),
        ("seed=-1", r"seed=-1: use a whole number"),
        ("trace.protocol=rewind", r"trace\.protocol=rewind: there is: replay, arrivals_only"),
        ("trace.window=0", r"trace\.window=0: use a whole number of at least 1"),
        ("durations=guessed", r"durations=guessed: there is: known, learned"),
        ("cluster.nodes=-2", r"cluster\.nodes=-2: use a number of nodes"),
        ("cluster.oversubscription=0.5", r"cluster\.oversubscription=0\.5: use 1 \(a device is promised once\)"),
        ("cluster.devices_per_node=0", r"cluster\.devices_per_node=0: use 1 to 1024; null is what the trace's"),
        ("cluster.host_memory_gib_per_node=1e300", r"cluster\.host_memory_gib_per_node=1e\+300: use 0 \(no limit\)"),
        ("cluster.slowdown=nowhere:at_all", r"cluster\.slowdown=nowhere:at_all: "),
        ("ordering.max_wait_s=0", r"ordering\.max_wait_s=0"),
        ("seed=range(0,1000000)", r"1000000 runs; a simulation has 1 to"),
        ("seed=one", r"seed=one: Value 'one'"),
        ("seed", r"override='seed'"),
    ],
)
def test_nonsense_is_refused_with_the_field_the_value_and_what_would_do(override, says):
    with pytest.raises(ConfigError, match=says):
        compose_runs([*TRACE, override])


def test_making_room_is_refused_where_nothing_ever_ends():
    with pytest.raises(ConfigError, match=r"preemption=least_lost: nobody leaves under trace\.protocol=arrivals_only"):
        compose_runs([*TRACE, "preemption=least_lost", "trace.protocol=arrivals_only"])


def test_a_value_that_is_missing_is_asked_for():
    with pytest.raises(ConfigError, match=r"trace\.pods=\?\?\?: give it a value"):
        compose_runs(["trace=alibaba2023"])


def test_the_composed_config_is_yaml():
    assert "name: shortest_first" in compose_base(["ordering=shortest_first", "seed=1,2"])


def test_what_is_for_simulations_alone_is_refused_elsewhere_in_words():
    command = [sys.executable, "-m", "orchestrator.cli", "run", "cluster=simulated", "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: cluster=simulated: this is for `orchestrator simulate` alone\n"
