"""Fusion on a GPU: a stack of members against the same members one after another.

    python -m tests.bench.fusion_gpu [--json fusion.json]

Needs Python 3.11 and torch, nothing else of the stack: run it from the repository's root on any machine with a card.
Widths 1 to 64, bf16 (fp32 master weights), every workload with and without CUDA graphs. Without a GPU it says so and
falls back to the CPU: fp32, widths to 16, no graphs, one thread.

A workload is one step of every member on tokens of its own. `solo` is one plain `Decoder` with torch's AdamW and
`clip_grad_norm_`; `fused` is a `StackEngine`; `graph` is a fused step captured once and replayed. All variants of a
workload take turns, and the least of the repeats counts, so that other work on the machine hurts all alike.
`speedup` is width x solo / variant. Rewards are made up on the device (whether an answer's first token is even), so
that no verifier is timed; groups without spread are masked, not skipped, so that shapes stay the same.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from experiments.batches import Prompts
from experiments.fusion.decoder import StackedDecoder
from experiments.fusion.engine import StackEngine
from experiments.fusion.losses import (
    GrpoKnobs,
    advantages_of_members,
    dpo_losses,
    further_losses,
    grpo_losses,
    sft_losses,
    tempered_log_probs,
)
from experiments.fusion.optimizer import MemberOptimizer
from experiments.losses import sequence_log_probs
from experiments.models.multi_token import further_logits, new_decoder
from experiments.models.shared_prompt import completion_logits
from experiments.rollout import generate
from experiments.tasks.tokenizer import CharTokenizer
from orchestrator.schema.training import GrpoConfig, ModelConfig, OptimizerConfig, PredictionConfig, PredictionKind

PROMPT_TOKENS, ANSWER_TOKENS = 7, 4
OPTIMIZER = OptimizerConfig(lr=1e-4)
CLIP_NORM = 1.0
FURTHER_WEIGHT = 0.3
TOKENIZER = CharTokenizer()
GPU_WIDTHS, CPU_WIDTHS = (1, 2, 4, 8, 16, 32, 64), (1, 2, 4, 8, 16)

Step = Callable[[], None]


class Trainee(Protocol):
    """A model in training, of one member or of many. `engine` is called for logits, `model` decodes. `modules` for
    further tokens are learned by the workloads `sft`."""

    members: int
    modules: int
    engine: Any
    model: Any

    def update(self, losses: Tensor) -> None:
        """Backward and one optimizer step."""


class Solo:
    """One decoder as a solo stage trains it, in `dtype` with fp32 master weights by autocast where it isn't fp32."""

    members = 1

    def __init__(self, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.decoder = new_decoder(config, TOKENIZER.vocab_size, torch.Generator().manual_seed(0)).to(device)
        self._autocast = partial(torch.autocast, device.type, dtype, enabled=dtype != torch.float32)
        self._adam = torch.optim.AdamW(
            self.decoder.parameters(), lr=OPTIMIZER.lr, betas=(OPTIMIZER.beta1, OPTIMIZER.beta2), weight_decay=0.0,
            fused=True,
        )  # fmt: skip
        self.engine = self.model = self
        self.modules = modules_of(config)
        self.new_cache = self.decoder.new_cache

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        with self._autocast():
            return self.decoder(*args, **kwargs)

    def update(self, losses: Tensor) -> None:
        """Backward and one optimizer step."""
        losses.sum().backward()
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), CLIP_NORM, foreach=True)
        self._adam.step()
        self._adam.zero_grad()


class Fused:
    """A stack of `width` members."""

    def __init__(self, config: ModelConfig, width: int, device: torch.device, dtype: torch.dtype) -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in range(width)]
        decoders = [new_decoder(config, TOKENIZER.vocab_size, generator) for generator in generators]
        self.model = StackedDecoder.of(decoders, dtype).to(device)
        self.members, self.modules = width, modules_of(config)
        self.engine = StackEngine(self.model, [MemberOptimizer(OPTIMIZER, CLIP_NORM)] * width)
        self.engine.optimizer.prepare([OPTIMIZER.lr] * width)

    def update(self, losses: Tensor) -> None:
        """Backward and one optimizer step at the rates that were set before: nothing here waits for the device."""
        self.engine.backward(losses)
        self.engine.optimizer.step()
        self.model.weights.grad = None


def modules_of(config: ModelConfig) -> int:
    """How many modules for further tokens a model of this config has."""
    return config.prediction.depth if config.prediction.kind is PredictionKind.multi_token else 0


def sft_workload(trainee: Trainee, batch: int, device: torch.device) -> Step:
    """`batch` examples a member."""
    rows = trainee.members * batch
    prompts, answers = _tokens(rows, PROMPT_TOKENS, device), _tokens(rows, ANSWER_TOKENS, device)
    mask = torch.ones_like(answers, dtype=torch.bool)
    counts = torch.full((trainee.members,), batch * ANSWER_TOKENS, device=device)

    def step() -> None:
        if not trainee.modules:
            trainee.update(sft_losses(completion_logits(trainee.engine, prompts, answers), answers, mask, counts))
            return
        logits, *further = further_logits(trainee.engine, prompts, answers)
        extra = further_losses(further, answers, mask, counts)
        trainee.update(sft_losses(logits, answers, mask, counts) + FURTHER_WEIGHT * extra)

    return step


def dpo_workload(trainee: Trainee, pairs: int, device: torch.device) -> Step:
    """`pairs` pairs a member, against what the model says now in place of a reference of its own."""
    rows = trainee.members * pairs
    prompts, answers = _tokens(rows, PROMPT_TOKENS, device), _tokens(rows * 2, ANSWER_TOKENS, device)
    mask = torch.ones_like(answers, dtype=torch.bool)
    betas = torch.full((trainee.members,), 0.1, device=device)

    def log_probs(model: Any) -> Tensor:
        logits = completion_logits(model, prompts, answers)
        return sequence_log_probs(tempered_log_probs(logits, answers, None), mask)

    def step() -> None:
        with torch.no_grad():
            references = log_probs(trainee.model)
        losses, _ = dpo_losses(log_probs(trainee.engine), references, betas, torch.zeros_like(betas))
        trainee.update(losses)

    return step


def decode_workload(trainee: Trainee, prompts: int, device: torch.device) -> Step:
    """One sampled answer to each of `prompts` prompts a member."""
    tokens = _tokens(trainee.members * prompts, PROMPT_TOKENS, device)
    noise = torch.rand(len(tokens), ANSWER_TOKENS, device=device)

    def step() -> None:
        _sample(trainee, tokens, noise, group=1)

    return step


def grpo_workload(trainee: Trainee, prompts: int, group: int, device: torch.device) -> Step:
    """Rollout, rewards and one update of `prompts` groups a member."""
    tokens = _tokens(trainee.members * prompts, PROMPT_TOKENS, device)
    noise = torch.rand(len(tokens) * group, ANSWER_TOKENS, device=device)
    knobs = GrpoKnobs.of([GrpoConfig()] * trainee.members, device)

    def step() -> None:
        rollout = _sample(trainee, tokens, noise, group)
        rewards = (rollout.tokens[:, 0] % 2 == 0).float().view(-1, group)
        spread = (rewards.amax(dim=1) != rewards.amin(dim=1)).repeat_interleave(group)
        logits = completion_logits(trainee.engine, tokens, rollout.tokens)
        log_probs = tempered_log_probs(logits, rollout.tokens, knobs.temperatures)
        advantages = advantages_of_members(rewards, knobs).flatten()
        mask = rollout.mask & spread[:, None]
        losses, _ = grpo_losses(log_probs, rollout.log_probs, advantages, mask, knobs, ANSWER_TOKENS)
        trainee.update(losses)

    return step


def _sample(trainee: Trainee, tokens: Tensor, noise: Tensor, group: int) -> Any:
    return generate(
        trainee.model,
        Prompts(tokens, None),
        TOKENIZER,
        ANSWER_TOKENS,
        group_size=group,
        noise=noise,
        members=trainee.members,
        ask_for_ends=False,
    )


WORKLOADS: dict[str, Callable[[Trainee, torch.device], Step]] = {
    "sft batch 8": lambda trainee, device: sft_workload(trainee, 8, device),
    "sft batch 32": lambda trainee, device: sft_workload(trainee, 32, device),
    "dpo 8 pairs": lambda trainee, device: dpo_workload(trainee, 8, device),
    "decode batch 8": lambda trainee, device: decode_workload(trainee, 8, device),
    "decode batch 64": lambda trainee, device: decode_workload(trainee, 64, device),
    "grpo 4 x 8": lambda trainee, device: grpo_workload(trainee, 4, 8, device),
    "grpo 16 x 8": lambda trainee, device: grpo_workload(trainee, 16, 8, device),
}


@dataclass(frozen=True)
class Row:
    """Least time of one step [ms], and how many times faster than `width` solo steps."""

    workload: str
    variant: str
    width: int
    step_ms: float
    speedup: float


def _tokens(rows: int, length: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, TOKENIZER.vocab_size, (rows, length), generator=generator).to(device)


def captured(step: Step) -> Step:
    """The step as a CUDA graph, warmed up on a stream of its own as capturing demands."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def timed_ms(step: Step, calls: int, device: torch.device) -> float:
    """Mean time of `calls` steps [ms]: wall time on a GPU, on a CPU that of the thread, which others can't stretch."""
    on_gpu = device.type == "cuda"
    clock = time.perf_counter if on_gpu else time.thread_time
    wait = torch.cuda.synchronize if on_gpu else (lambda: None)
    wait()
    started = clock()
    for _ in range(calls):
        step()
    wait()
    return (clock() - started) / calls * 1000.0


def measure(
    workload: str,
    widths: Sequence[int],
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype,
    repeats: int,
    calls: int,
) -> list[Row]:
    """Rows of one workload: its variants in turn, `repeats` times `calls` steps of each, the least of the repeats."""
    build = WORKLOADS[workload]
    steps: dict[tuple[str, int], Step] = {("solo", 1): build(Solo(config, device, dtype), device)}
    for width in widths:
        steps["fused", width] = build(Fused(config, width, device, dtype), device)
        if device.type == "cuda":
            steps["graph", width] = captured(build(Fused(config, width, device, dtype), device))
    least = dict.fromkeys(steps, float("inf"))
    for step in steps.values():
        step()
    for _ in range(repeats):
        for key, step in steps.items():
            least[key] = min(least[key], timed_ms(step, calls, device))
    solo_ms = least["solo", 1]
    return [Row(workload, variant, width, ms, width * solo_ms / ms) for (variant, width), ms in least.items()]


def processor() -> str:
    """The CPU's model, where the system says it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")


def table(rows: Sequence[Row]) -> str:
    """A line a workload and variant, a column a width: step [ms] and speedup."""
    widths = sorted({row.width for row in rows})
    lines = [f"{'workload':<16} {'variant':<7}" + "".join(f"{f'width {width}':>18}" for width in widths)]
    for workload in dict.fromkeys(row.workload for row in rows):
        for variant in dict.fromkeys(row.variant for row in rows):
            found = {row.width: row for row in rows if (row.workload, row.variant) == (workload, variant)}
            cells = (f"{row.step_ms:9.2f} {row.speedup:5.2f}x" if row else "" for row in map(found.get, widths))
            if found:
                lines.append(f"{workload:<16} {variant:<7}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a table, and writes JSON where asked to."""
    parser = argparse.ArgumentParser(description="fusion against one after another", allow_abbrev=False)
    parser.add_argument("--widths", help="such as 1,2,4; default 1 to 64, on a CPU 1 to 16")
    parser.add_argument("--workloads", help=f"default all: {', '.join(WORKLOADS)}", default=",".join(WORKLOADS))
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--modules", type=int, default=0, help="for further tokens, which `sft` learns too")
    parser.add_argument("--repeats", type=int, default=5, help="the least of them counts")
    parser.add_argument("--calls", type=int, help="steps a repeat; default 50, on a CPU 1")
    parser.add_argument("--dtype", choices=["bf16", "fp32"], help="default bf16, on a CPU fp32")
    parser.add_argument("--json", type=Path, help="where to write the result")
    options = parser.parse_args(arguments)

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    if not gpu:
        torch.set_num_threads(1)
        print("no GPU: on one CPU thread, smaller sizes, no CUDA graphs", file=sys.stderr)
    widths = [int(w) for w in options.widths.split(",")] if options.widths else list(GPU_WIDTHS if gpu else CPU_WIDTHS)
    dtype = torch.bfloat16 if (options.dtype or ("bf16" if gpu else "fp32")) == "bf16" else torch.float32
    d_ff = -(-options.d_model * 8 // 3 // 16) * 16
    config = ModelConfig(d_model=options.d_model, layers=options.layers, d_ff=d_ff)
    if options.modules:
        config = replace(config, prediction=PredictionConfig(PredictionKind.multi_token, options.modules))
    calls = options.calls or (50 if gpu else 1)
    rows: list[Row] = []
    for workload in options.workloads.split(","):
        rows += measure(workload, widths, config, device, dtype, options.repeats, calls)
    about = {
        "device": torch.cuda.get_device_name() if gpu else f"CPU, one thread of {processor()}",
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "dtype": str(dtype).removeprefix("torch."),
        "model": asdict(config),
        "prompt_tokens": PROMPT_TOKENS,
        "answer_tokens": ANSWER_TOKENS,
        "repeats": options.repeats,
        "calls": calls,
    }
    print(f"{about['device']}, torch {about['torch']}, {about['dtype']}, d {config.d_model}, {config.layers} layers")
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
