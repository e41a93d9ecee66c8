"""A feed-forward of experts, and a decoder with it: all experts computed, the chosen ones alone, or as the rule says.

    python -m tests.bench.experts --repeats 30

CPU time of one thread, the three in turn, the least of the repeats. `layer`: rows through one feed-forward, with
gradients too (`learned`). `decode`: tokens a second of greedy decoding behind a prompt of 12. `step`: forward, backward
and AdamW of 64 answers of 4 tokens behind such prompts. `rule`: `chosen_alone_pay`, asked for each feed-forward anew.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from unittest import mock

import torch

from experiments.batches import Prompts
from experiments.fusion import layer
from experiments.fusion.decoder import StackedDecoder
from experiments.models import moe
from experiments.models.decoder import Decoder
from experiments.models.moe import MixtureOfExperts
from experiments.models.shared_prompt import completion_logits
from experiments.rollout import generate
from experiments.tasks import CharTokenizer
from orchestrator.schema.training import FeedForwardKind, ModelConfig

WAYS = {"all": False, "chosen": True, "rule": None}
SHAPES = [(64, 44, 8), (64, 44, 64), (256, 176, 8), (256, 176, 64)]
PROMPT, ANSWER = 12, 8


def config_of(d_model: int, d_expert: int, experts: int) -> ModelConfig:
    """A decoder of two layers whose tokens have one shared expert and two of `experts`."""
    return ModelConfig(
        d_model=d_model, layers=2, heads=4, kv_heads=4, ffn=FeedForwardKind.moe, d_expert=d_expert, experts=experts
    )


@contextmanager
def computing(*, chosen_alone: bool) -> Iterator[None]:
    """One way, whatever the rule says."""
    with ExitStack() as stack:
        for module in (moe, layer):
            stack.enter_context(mock.patch.object(module, "chosen_alone_pay", return_value=chosen_alone))
        yield


def in_turns(work: Callable[[], object], repeats: int) -> dict[str, float]:
    """CPU time of the work [s] in each way."""
    least = dict.fromkeys(WAYS, float("inf"))
    for _ in range(repeats):
        for name, chosen_alone in WAYS.items():
            with nullcontext() if chosen_alone is None else computing(chosen_alone=chosen_alone):
                began = time.process_time()
                work()
                least[name] = min(least[name], time.process_time() - began)
    return least


def rows_of(config: ModelConfig, rows: int, *, learned: bool) -> Callable[[], object]:
    """So many rows through one feed-forward."""
    experts, x = MixtureOfExperts(config), torch.randn(1, rows, config.d_model)

    def work() -> None:
        with torch.set_grad_enabled(learned):
            y = experts(x)
        if learned:
            y.sum().backward()
            experts.take_load()

    return work


def decoding(model: Decoder | StackedDecoder, members: int, batch: int) -> Callable[[], object]:
    """`ANSWER` tokens for each of `batch` prompts of each member."""
    tokenizer, tokens = CharTokenizer(), torch.randint(3, 90, (members * batch, PROMPT))
    prompts = Prompts(tokens, torch.zeros(members * batch, dtype=torch.int64))
    return lambda: generate(model, prompts, tokenizer, ANSWER, **({"members": members} if members > 1 else {}))


def training(model: Decoder | StackedDecoder, members: int) -> Callable[[], object]:
    """A step of 64 answers of each member."""
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    prompts, answers = torch.randint(3, 90, (members * 64, PROMPT)), torch.randint(3, 90, (members * 64, 4))

    def work() -> None:
        logits = completion_logits(model, prompts, answers, None)
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return work


def main() -> None:
    """Prints a line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--width", type=int, default=8, help="members of the stack")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| d_model, d_expert, experts | what | all | chosen | rule | times as fast |", "| --- " * 6 + "|", sep="\n")
    for shape in SHAPES:
        for what, work in works(config_of(*shape), arguments.width).items():
            least = in_turns(work(), arguments.repeats)
            times = " | ".join(f"{seconds * 1e3:.2f} ms" for seconds in least.values())
            print(
                f"| {', '.join(map(str, shape))} | {what} | {times} | {least['all'] / least['rule']:.2f} |", flush=True
            )


def works(config: ModelConfig, width: int) -> dict[str, Callable[[], Callable[[], object]]]:
    """What is measured of a shape, made when it is its turn."""
    found: dict[str, Callable[[], Callable[[], object]]] = {}
    for rows in (1, 64, 256, 1024):
        for learned in (False, True):
            name = f"layer, {rows} rows{', learned' if learned else ''}"
            found[name] = partial(rows_of, config, rows, learned=learned)
    for batch in (1, 64):
        found[f"decode, batch {batch}"] = lambda batch=batch: decoding(Decoder(config, 99), 1, batch)
    found["step"] = lambda: training(Decoder(config, 99), 1)
    found[f"decode, {width} members x batch 8"] = lambda: decoding(stack_of(config, width), width, 8)
    if config.d_model * config.experts < 10_000:  # else eight members and their gradients are more than is to spare
        found[f"step, {width} members"] = lambda: training(stack_of(config, width), width)
    return found


def stack_of(config: ModelConfig, width: int) -> StackedDecoder:
    """Fresh members."""
    return StackedDecoder.of([Decoder(config, 99) for _ in range(width)])


if __name__ == "__main__":
    main()
