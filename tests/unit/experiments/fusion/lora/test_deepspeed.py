"""A stack of adapters under DeepSpeed."""

import pytest
import torch

from experiments.engine import DeepSpeedLoraStack, open_device
from experiments.fusion.lora.engine import LoraEngine
from tests.unit.experiments.children import run_in_child
from tests.unit.experiments.fusion.fused_runs import FusedRun, advance, variants, write_even_problems
from tests.unit.experiments.fusion.lora.lora_runs import SHORT, lora_bundle, task_of, tiny_model
from tests.unit.experiments.stage_runs import assignment_of


def rows_after_five_steps(folder, data, datas, make_engine):
    if make_engine is DeepSpeedLoraStack:
        open_device(assignment_of(folder, data))
    named = {str(number): data for number, data in enumerate(datas)}
    bundle = lora_bundle(tiny_model(), task_of(folder, data), named, make_engine=make_engine)
    advance(bundle, FusedRun(), 3)
    bundle.take_out("1")
    advance(bundle, FusedRun(), 2)
    return bundle.engine.stack.weights.detach()


@pytest.mark.slow
def test_adapters_learn_under_deepspeed_what_they_learn_without_it(tmp_path):
    datas = variants(write_even_problems(tmp_path), SHORT["sft"], 3)
    plain, engine = (
        run_in_child(rows_after_five_steps, tmp_path, datas[0], datas, make)
        for make in (LoraEngine, DeepSpeedLoraStack)
    )
    assert plain.shape[0] == 2
    torch.testing.assert_close(engine, plain)
