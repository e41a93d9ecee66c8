"""The benchmark itself, on two variants: every system trains the same study and hands over the same kind of account."""

import json
from pathlib import Path

import pytest

from tests.bench.peers.__main__ import main, run_once
from tests.bench.peers.run import SYSTEMS
from tests.bench.peers.winner import LEAST_PROBLEMS

ALONE = ("shell_loop", "tune_asha", "tune_asha_warm", "ours_packing", "ours")
"""Without hydra_ray, whose launcher `make bench-peers` installs."""


@pytest.mark.slow
@pytest.mark.parametrize("system", ALONE)
def test_a_system_decides_every_variant(system: str, tmp_path: Path):
    run = run_once(system, 2, tmp_path, extra="")
    assert run["decided"] == 2
    assert 0.0 < run["device_s"] <= run["cluster_device_s"] <= run["wall_device_s"]
    assert 0.0 <= run["completed_equivalent_reused"] < run["completed_equivalent"] <= 2.0


@pytest.mark.slow
def test_a_benchmark_that_goes_on_makes_no_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    record = tmp_path / "peers.json"
    arguments = ["--systems", "shell_loop", "--variants", "2", "--record", str(record)]
    main([*arguments, "--repeats", "1"])
    (first,) = json.loads(record.read_text())["runs"]
    assert first["winner_problems"] >= LEAST_PROBLEMS
    assert first["winner_low"] < first["winner_accuracy"] < first["winner_high"]
    assert first["winner_retrained_dev_accuracy"] == first["winner_dev_accuracy"]
    main([*arguments, "--repeats", "2"])
    assert json.loads(record.read_text())["runs"][0] == first
    assert "repeat 1" in capsys.readouterr().out


def test_an_unknown_system_is_refused_with_those_that_there_are(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["--systems", "slurm"])
    said = capsys.readouterr().err
    assert all(name in said for name in SYSTEMS)
