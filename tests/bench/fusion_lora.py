"""Adapters over one base as one program against each of them over a base of its own.

    python -m tests.bench.fusion_lora [--d-model 64] [--layers 2] [--json lora.json]

Workloads, timing and table are those of `tests.bench.fusion_gpu`. `solo` is peft's model under torch's fused AdamW and
`clip_grad_norm_`; `fused` a `LoraEngine`, its members' ranks all the largest. The base is a Llama of random weights, in
fp32 on the CPU and in bf16 on a GPU; adapters are fp32 on both.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.fusion.lora.base import FrozenBase
from experiments.fusion.lora.engine import LoraEngine
from experiments.fusion.lora.stack import LoraStack
from experiments.fusion.optimizer import MemberOptimizer
from experiments.models.adapter import Adapter, draw_adapter
from experiments.models.hf import find_sites
from tests.bench.fusion_gpu import CLIP_NORM, OPTIMIZER, TOKENIZER, WORKLOADS, Row, Step, processor, table, timed_ms
from tests.unit.experiments.peft_alone import LoraModel

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make_base(d_model: int, layers: int, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A Llama of random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TOKENIZER.vocab_size,
        hidden_size=d_model,
        intermediate_size=-(-d_model * 8 // 3 // 16) * 16,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    return LlamaForCausalLM(config).to(device, dtype).eval()


def make_adapter(model: nn.Module, rank: int, seed: int) -> Adapter:
    """A fresh one on every linear layer of the blocks."""
    return draw_adapter(find_sites(model, TARGETS), TARGETS, rank, 2.0 * rank, torch.Generator().manual_seed(seed))


class SoloLora:
    """One adapter by peft."""

    members, modules = 1, 0

    def __init__(self, base: nn.Module, rank: int) -> None:
        self.engine = self.model = LoraModel(base, make_adapter(base, rank, 0))
        self._trained = list(self.model.trained().values())
        self._adam = torch.optim.AdamW(
            self._trained, lr=OPTIMIZER.lr, betas=(OPTIMIZER.beta1, OPTIMIZER.beta2), weight_decay=0.0, fused=True
        )

    def update(self, losses: Tensor) -> None:
        """Backward and one optimizer step."""
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(self._trained, CLIP_NORM, foreach=True)
        self._adam.step()
        self._adam.zero_grad()


class FusedLora:
    """A stack of `width` adapters."""

    modules = 0

    def __init__(self, base: FrozenBase, rank: int, width: int) -> None:
        adapters = [make_adapter(base.model.model, rank, seed) for seed in range(width)]
        self.members, self.model = width, LoraStack.of(base, adapters, rank)
        self.engine = LoraEngine(self.model, [MemberOptimizer(OPTIMIZER, CLIP_NORM)] * width)
        self.engine.optimizer.prepare([OPTIMIZER.lr] * width)

    def update(self, losses: Tensor) -> None:
        """Backward and one optimizer step."""
        self.engine.backward(losses)
        self.engine.optimizer.step()
        self.model.weights.grad = None


def measure(workload: str, widths: Sequence[int], options: argparse.Namespace, device: torch.device) -> list[Row]:
    """Rows of one workload: its variants in turn, the least of the repeats."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32

    def base() -> Any:
        return make_base(options.d_model, options.layers, device, dtype)

    build, shared = WORKLOADS[workload], FrozenBase(base(), TARGETS)
    steps: dict[tuple[str, int], Step] = {("solo", 1): build(SoloLora(base(), options.rank), device)}
    for width in widths:
        steps["fused", width] = build(FusedLora(shared, options.rank, width), device)
    least = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for _ in range(options.repeats):
        for key, step in steps.items():
            least[key] = min(least[key], timed_ms(step, options.calls, device))
    solo_ms = least["solo", 1]
    return [Row(workload, variant, width, ms, width * solo_ms / ms) for (variant, width), ms in least.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description="adapters fused against one after another", allow_abbrev=False)
    parser.add_argument("--widths", default="1,2,4,8")
    parser.add_argument(
        "--workloads", help=f"of {', '.join(WORKLOADS)}", default="sft batch 8,decode batch 8,grpo 4 x 8"
    )
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=9, help="the least of them counts")
    parser.add_argument("--calls", type=int, default=1, help="steps a repeat")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args(arguments)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    rows: list[Row] = []
    for workload in options.workloads.split(","):
        rows += measure(workload, [int(width) for width in options.widths.split(",")], options, device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, one thread of {processor()}"
    about = {"device": name, "torch": torch.__version__, "d_model": options.d_model, "layers": options.layers}
    print(f"{name}, torch {torch.__version__}, d {options.d_model}, {options.layers} layers, rank {options.rank}")
    print(table(rows))
    if options.json:
        settings = {"rank": options.rank, "repeats": options.repeats, "calls": options.calls}
        options.json.write_text(
            json.dumps({**about, **settings, "rows": [asdict(row) for row in rows]}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
