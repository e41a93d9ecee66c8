"""A member's checkpoint is a solo checkpoint: a stage goes on from it alone, and a bundle from a stage's."""

from pathlib import Path

import pytest
import torch

from experiments.fusion.checkpoint import MemberEngine
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.fusion.fused_runs import (
    GRPO,
    SERIES,
    SFT,
    STEPS,
    WEIGHTS,
    FusedRun,
    advance,
    bundle_of,
    run_solo,
    variants,
)
from tests.unit.experiments.stage_runs import assignment_of

BOTH = pytest.mark.parametrize("algorithm", [SFT, GRPO], ids=["sft", "grpo"])
LEFT_AT = 20


def _open_alone(folder, data, parent):
    """A process group of one: whole folders are agreed on by the gang."""
    from experiments.engine import open_device

    open_device(assignment_of(folder, data, parent=parent, name="process"))


def _layout(data, engine):
    return {"algorithm.name": data["algorithm"]["name"], **engine.layout}


def _write_fused(folder, datas, parent):
    """Fused for `LEFT_AT` steps; then the second member is taken out by a checkpoint in the solo stage's folder."""
    from experiments.checkpoint import save_checkpoint
    from experiments.stages.session import Progress

    _open_alone(folder, datas[1], parent)
    bundle = bundle_of(folder, {str(n): d for n, d in enumerate(datas)}, parent)
    run = FusedRun()
    advance(bundle, run, LEFT_AT)
    member, engine = bundle.member("1"), MemberEngine(bundle, "1")
    progress = vars(Progress(step=member.step, position=member.position, start_accuracy=0.0, dev_step=LEFT_AT))
    target = Path(assignment_of(folder, datas[1], parent=parent, name="solo-0").checkpoint_dir)
    save_checkpoint(target, engine, _layout(datas[1], engine), member.step, progress, member.sampler)
    return sorted(path.name for path in target.rglob("*"))


def _read_solo(folder, datas, parent):
    """A bundle whose second member goes on from the checkpoint of a solo stage; its weights at the end."""
    from experiments.checkpoint import load_checkpoint

    _open_alone(folder, datas[1], parent)
    bundle = bundle_of(folder, {str(n): d for n, d in enumerate(datas)}, parent)
    member, engine = bundle.member("1"), MemberEngine(bundle, "1")
    source = Path(assignment_of(folder, datas[1], parent=parent, name="solo-0").checkpoint_dir)
    progress = load_checkpoint(source, None, engine, _layout(datas[1], engine), member.sampler)
    member.step, member.position = progress["step"], progress["position"]
    run = FusedRun()
    advance(bundle, run, STEPS - member.step)
    return bundle.state("1").decoder.state_dict(), run


def _never_fused(folder, data, parent):
    (whole,) = run_solo(folder, [data], parent)
    return whole


@BOTH
def test_a_member_taken_out_goes_on_alone_as_if_never_fused(study, tmp_path, algorithm):
    _, even, _, parent = study
    datas = variants(even, algorithm, 3)
    expected = _never_fused(tmp_path_of(tmp_path, "whole"), datas[1], parent)
    files = run_in_child(_write_fused, tmp_path, datas, parent)
    assert files == ["engine", "mp_rank_00_model_states.pt", "process-0.pt", f"step-{LEFT_AT}"]
    (alone,) = run_solo(tmp_path, [datas[1]], parent)
    assert alone.outcome.finished
    torch.testing.assert_close(
        torch.tensor(alone.series("train/loss")),
        torch.tensor([m["train/loss"] for step, m, _ in expected.reports if step > LEFT_AT and "train/loss" in m]),
        **SERIES,
    )
    for name, weight in expected.weights.items():
        torch.testing.assert_close(alone.weights[name], weight, **WEIGHTS)


@BOTH
def test_a_member_put_in_from_a_solo_checkpoint_goes_on_as_if_never_stopped(study, tmp_path, algorithm):
    _, even, _, parent = study
    datas = variants(even, algorithm, 2)
    expected = _never_fused(tmp_path_of(tmp_path, "whole"), datas[1], parent)
    (paused,) = run_solo(tmp_path, [datas[1]], parent, stop_at=LEFT_AT + 1)
    assert (paused.outcome.finished, paused.saves[-1]) == (False, LEFT_AT)
    weights, run = run_in_child(_read_solo, tmp_path, datas, parent)
    assert len(run.series["1"]) == STEPS - LEFT_AT
    for name, weight in expected.weights.items():
        torch.testing.assert_close(weights[name], weight, **WEIGHTS)


def test_a_checkpoint_that_is_not_there_is_said_so(study, tmp_path):
    _, even, _, parent = study
    bundle = bundle_of(tmp_path, {"0": variants(even, SFT, 1)[0]}, parent)
    with pytest.raises(FileNotFoundError, match=r"no checkpoint of this engine at .*gone/engine"):
        MemberEngine(bundle, "0").load(tmp_path / "gone", "engine")


def tmp_path_of(folder, name):
    (folder / name).mkdir()
    return folder / name
