"""What the runs of a record say together."""

import json
from pathlib import Path

import pytest

from tests.bench.peers.record import kept_runs, reached, spread_of, table, winners, write

LIKE = {"revision": "r", "variants": 64, "machine": {"cpu": "x"}}


def run(system, repeat=0, device_s=3600.0, decided=64, equivalent=64.0, reused=0.0, wall_s=1800.0, low=0.9, high=0.95):
    return {
        "system": system,
        "repeat": repeat,
        "wall_s": wall_s,
        "device_s": device_s,
        "cluster_device_s": 2 * device_s,
        "decided": decided,
        "completed_equivalent": equivalent,
        "completed_equivalent_reused": reused,
        "decided_per_device_hour": 3600.0 * decided / device_s,
        "completed_equivalent_per_device_hour": 3600.0 * equivalent / device_s,
        "winner_accuracy": (low + high) / 2,
        "winner_low": low,
        "winner_high": high,
        **LIKE,
    }


def of(runs, peer, what):
    return next(t for t in reached(runs) if (t["peer"], t["what"]) == (peer, what))


def test_a_target_is_met_by_what_is_delivered_per_device_hour():
    runs = [run("shell_loop"), run("ours", device_s=240.0, equivalent=8.0)]
    decided, equivalent = (of(runs, "shell_loop", what) for what in ("decided", "completed_equivalent"))
    assert (decided["factor"], decided["met"]) == (pytest.approx(15.0), True)
    assert (equivalent["factor"], equivalent["met"]) == (pytest.approx(1.875), False)


def test_a_missed_target_says_by_how_much():
    target = of([run("shell_loop"), run("ours", device_s=600.0)], "shell_loop", "decided")
    assert not target["met"]
    assert "6.0 of 12: short by 50%" in target["why"]


def test_a_factor_is_what_is_trained_less_times_what_that_costs_less():
    runs = [run("shell_loop"), run("ours", device_s=300.0, equivalent=32.0, reused=16.0)]
    target = of(runs, "shell_loop", "decided")
    assert target["work"] == pytest.approx(4.0)
    assert target["price"] == pytest.approx(3.0)
    assert target["work"] * target["price"] == pytest.approx(target["factor"])


def test_a_factor_is_of_medians_and_its_range_of_the_extremes():
    runs = [run("shell_loop", i, device_s=s) for i, s in enumerate((3000.0, 3600.0, 4000.0))]
    runs += [run("ours", i, device_s=s) for i, s in enumerate((250.0, 300.0, 400.0))]
    target = of(runs, "shell_loop", "decided")
    assert (target["low"], target["factor"], target["high"]) == pytest.approx((7.5, 12.0, 16.0))


def test_nothing_is_said_of_a_target_without_both_systems():
    assert reached([run("ours")]) == []


def test_winners_are_of_equal_quality_where_all_intervals_share_points():
    assert winners([run("ours"), run("shell_loop", low=0.93, high=0.97)])["equal_quality"]
    apart = winners([run("ours"), run("shell_loop", repeat=1, low=0.96, high=0.98)])
    assert apart == {"equal_quality": False, "apart": ["ours 0 and shell_loop 1"]}


def test_the_spread_is_over_repeats():
    spread = spread_of([run("ours", 0, wall_s=1.0), run("ours", 1, wall_s=2.0), run("ours", 2, wall_s=6.0)])
    assert spread["repeats"] == 3
    assert spread["wall_s"] == {"median": 2.0, "low": 1.0, "high": 6.0}
    assert "variants" not in spread


def test_a_record_gives_back_the_runs_of_the_same_code_machine_and_size(tmp_path: Path):
    path = tmp_path / "records" / "peers.json"
    assert kept_runs(path, LIKE) == []
    runs = [run("ours"), {**run("shell_loop"), "revision": "another"}]
    write(path, runs, {"command": "c"})
    assert kept_runs(path, LIKE) == runs[:1]
    assert json.loads(path.read_text())["command"] == "c"


def test_a_table_names_every_system_and_what_became_of_the_targets():
    text = table([run("shell_loop"), run("ours", device_s=600.0, low=0.5, high=0.6)])
    assert "shell_loop" in text
    assert "MISSED: 6.0 x shell_loop in decided" in text
    assert "winners of different quality: shell_loop 0 and ours 0" in text
