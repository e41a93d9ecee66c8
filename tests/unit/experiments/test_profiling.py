"""The profiler on real tiny stages, alone and fused, in children."""

import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from experiments import profiling
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.stage_runs import ALGORITHMS, assignment_of, run_stage, stage_data, write_problems

COMPUTING = {"forward", "backward", "optimizer", "decode"}


def profiled(folder: Path, data, *, steps=4, width=1, checkpoint: Path | str = "", traced_steps=2):
    """`measured.json` of the stage, and the names in its trace."""
    stage = assignment_of(folder, data).stage
    entrypoints = {
        "entrypoint": f"experiments.stages.{stage.name}:run",
        "fused_entrypoint": "experiments.stages.fused:run",
    }
    request = profiling.Request(
        stage=asdict(replace(stage, **entrypoints)),
        steps=steps,
        traced_steps=traced_steps,
        width=width,
        checkpoint=str(checkpoint),
        parent_dir="",
        warm_dir="",
        cache_dir=str(folder / "cache"),
    )
    out = folder / "profile"
    out.mkdir()
    (out / profiling.REQUEST).write_text(json.dumps(asdict(request)))
    run_in_child(profiling.main, out)
    trace = json.loads(gzip.decompress((out / profiling.TRACE).read_bytes()))
    names = {event.get("name") for event in trace["traceEvents"]}
    assert sorted(path.name for path in out.iterdir()) == [profiling.MEASURED, profiling.REQUEST, profiling.TRACE]
    return json.loads((out / profiling.MEASURED).read_text()), names


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("algorithm", ["sft", "grpo"])
def test_the_parts_of_a_stage_have_all_of_its_time_and_its_trace_has_its_operators(tmp_path, algorithm, width):
    data = stage_data(write_problems(tmp_path), ALGORITHMS[algorithm])
    measured, names = profiled(tmp_path, data, width=width)
    seconds = {part["part"]: part["wall_s"] for part in measured["parts"]}
    assert sum(seconds.values()) == pytest.approx(measured["wall_s"])
    assert sum(part["share"] for part in measured["parts"]) == pytest.approx(1.0)
    assert (measured["steps"], measured["traced_steps"], measured["width"]) == (4, 2, width)
    expected = {"decode", "evaluate", "verify", "data", "report", "checkpoint", "start-up", "other"}
    if algorithm == "sft":  # an untrained policy may be right nowhere, and then GRPO has nothing to learn from
        expected |= COMPUTING
        assert {"forward", "backward", "optimizer", "aten::silu"} <= names
    assert all(seconds[part] > 0.0 for part in expected)
    overhead = sum(share for part, share in seconds.items() if part not in COMPUTING) / measured["wall_s"]
    assert measured["overhead"] == pytest.approx(overhead)
    assert measured["operators"]


def test_a_whole_stage_is_run_to_its_end(tmp_path):
    data = stage_data(write_problems(tmp_path), ALGORITHMS["sft"])
    measured, _ = profiled(tmp_path, data, steps=0)
    assert measured["steps"] + measured["traced_steps"] == ALGORITHMS["sft"]["max_steps"]
    assert measured["whole_stage"]


def test_a_stage_that_ends_within_the_trace_is_profiled_all_the_same(tmp_path):
    data = stage_data(write_problems(tmp_path), {**ALGORITHMS["sft"], "max_steps": 5})
    measured, names = profiled(tmp_path, data, steps=4, traced_steps=50)
    assert (measured["steps"], measured["traced_steps"]) == (3, 2)
    assert "aten::silu" in names


def test_a_profile_goes_on_from_a_copy_of_a_checkpoint(tmp_path):
    data = stage_data(write_problems(tmp_path), ALGORITHMS["sft"])
    run_stage(tmp_path, data, stop_at=9)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert checkpoint.name == "step-8"
    measured, _ = profiled(tmp_path, data, steps=0, traced_steps=1, checkpoint=checkpoint)
    assert measured["steps"] + measured["traced_steps"] == 4
    assert [path.name for path in checkpoint.parent.iterdir()] == ["step-8"]


def test_what_a_stage_raises_is_raised(tmp_path):
    data = stage_data(tmp_path / "nothing.jsonl", ALGORITHMS["sft"])
    with pytest.raises(Exception, match=r"nothing\.jsonl"):
        profiled(tmp_path, data, width=2)
    assert not (tmp_path / "profile" / "scratch").exists()
