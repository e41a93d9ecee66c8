"""Rollouts: this project's built-in engine against Hugging Face's `generate`, same weights and prompts, in one run.

    python -m tests.bench.rollout [--repeats 7] [--record]

A Llama with random weights is made on disk. A rollout is that of a GRPO step: `--prompts` prompts of 32 to 128 tokens,
`--group` completions of each, at most 64 tokens, at temperature 1 without top-k. Completions end where the end token is
drawn, one in `--vocabulary` tokens, so they are of ragged lengths; `generate` goes on until the last has ended, as it
does, and counts those tokens only that come before an end, as all systems do.

`builtin` is what `rollout.engine=builtin` does with the Hugging Face model, copying its weights at each rollout
included; `builtin_decoder` is the same with a compact decoder of the same shape and `rollout.max_rows` set, and
`decoder_in_one_batch` is what that decoder gets without, as a stack does: `experiments.rollout.generate`, which goes on
decoding completions whose group has not ended. `one_batch` is that with the Hugging Face model. All run on one thread,
in turn, and are timed in CPU time of that thread, so that a busy machine hurts all alike. All repeats are in the
record.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.batches import Prompts
from experiments.models.decoder import Decoder
from experiments.models.hf import HfModel, load_base
from experiments.rollout import CachedModel, generate, sampling_noise
from experiments.rollout.engine import Builtin
from orchestrator.schema.training import ModelConfig
from tests.bench.provenance import provenance
from tests.hf_models import write_model

RECORD = Path(__file__).parent / "records" / "rollout.json"
PAD, EOS = 0, 2
SHORTEST_PROMPT, LONGEST_PROMPT, ANSWER = 32, 128, 64

Rollouts = Callable[[], int]
"""Does one rollout and returns how many tokens it generated."""


@dataclass(frozen=True)
class Ids:
    """As much of a tokenizer as decoding asks for."""

    vocab_size: int
    pad_id: int = PAD
    eos_id: int = EOS


def drawn_prompts(count: int, vocabulary: int, generator: torch.Generator) -> Prompts:
    """Random prompts of 32 to 128 tokens, padded on the left."""
    lengths = torch.randint(SHORTEST_PROMPT, LONGEST_PROMPT + 1, (count,), generator=generator)
    longest = int(lengths.max())
    padding = longest - lengths
    tokens = torch.randint(EOS + 1, vocabulary, (count, longest), generator=generator)
    return Prompts(tokens.masked_fill(torch.arange(longest) < padding[:, None], PAD), padding)


def hugging_face(model: Any, prompts: Prompts, group: int) -> Rollouts:
    """`generate` on prompts that are repeated for each completion, as trainers call it."""
    assert prompts.padding is not None
    longest = prompts.tokens.shape[1]
    seen = torch.arange(longest) >= prompts.padding[:, None]
    tokens, seen = prompts.tokens.repeat_interleave(group, dim=0), seen.long().repeat_interleave(group, dim=0)

    def rollout() -> int:
        out = model.generate(
            input_ids=tokens,
            attention_mask=seen,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            max_new_tokens=ANSWER,
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
        return generated_tokens(out[:, longest:])

    return rollout


def generated_tokens(ids: torch.Tensor) -> int:
    """Tokens up to the end of each row (N, T), the end token included."""
    ended = (ids == EOS).long()
    return int((ended.cumsum(dim=1) - ended == 0).sum())


def ours(sample: Callable[..., Any], model: CachedModel, prompts: Prompts, group: int, ids: Ids) -> Rollouts:
    """By `sample`, with new noise each time."""
    generator = torch.Generator().manual_seed(1)

    def rollout() -> int:
        noise = sampling_noise(len(prompts) * group, ANSWER, generator)
        return int(sample(model, prompts, ids, ANSWER, group_size=group, temperature=1.0, noise=noise).mask.sum())

    return rollout


def measure(systems: dict[str, Rollouts], repeats: int) -> dict[str, list[float]]:
    """Tokens a second of CPU time of each repeat, systems in turn; a first one of each warms up."""
    speeds: dict[str, list[float]] = {name: [] for name in systems}
    for rollout in systems.values():
        rollout()
    for _ in range(repeats):
        for name, rollout in systems.items():
            began_s = time.thread_time()
            tokens = rollout()
            speeds[name].append(tokens / (time.thread_time() - began_s))
    return speeds


def summary(speeds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Best, median and lowest of each system [tokens/s], and how many times the speed of `generate`: of the bests, of
    the medians, and the median of the ratios of each turn."""
    base = speeds["hugging_face"]
    return {
        name: {
            "best": max(values),
            "median": statistics.median(values),
            "low": min(values),
            "times_best": max(values) / max(base),
            "times_median": statistics.median(values) / statistics.median(base),
            "times_in_turn": statistics.median(a / b for a, b in zip(values, base, strict=True)),
        }
        for name, values in speeds.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints a line a system, and writes the record where asked to."""
    parser = argparse.ArgumentParser(description="rollouts against Hugging Face's generate", allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=64, help="one token in so many is the end")
    parser.add_argument("--d-model", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    prompts = drawn_prompts(options.prompts, options.vocabulary, generator)
    d_ff = -(-options.d_model * 8 // 3 // 16) * 16
    ids = Ids(options.vocabulary)
    with tempfile.TemporaryDirectory() as folder:
        write_model(
            Path(folder),
            vocab_size=options.vocabulary,
            hidden_size=options.d_model,
            intermediate_size=d_ff,
            num_hidden_layers=options.layers,
            num_key_value_heads=4,
            max_position_embeddings=LONGEST_PROMPT + ANSWER,
            tie_word_embeddings=True,
        )
        base = load_base(Path(folder))
    config = ModelConfig(d_model=options.d_model, layers=options.layers, d_ff=d_ff)
    model, decoder = HfModel(base), Decoder(config, options.vocabulary, generator)
    systems = {
        "hugging_face": hugging_face(base, prompts, options.group),
        "builtin": ours(Builtin().sample, model, prompts, options.group, ids),
        "builtin_decoder": ours(Builtin(options.prompts * options.group).sample, decoder, prompts, options.group, ids),
        "decoder_in_one_batch": ours(Builtin().sample, decoder, prompts, options.group, ids),
        "one_batch": ours(generate, model, prompts, options.group, ids),
    }
    tokens = systems["builtin"]() / (options.prompts * options.group)
    speeds = measure(systems, options.repeats)
    results = summary(speeds)
    for name, row in results.items():
        times = f"medians {row['times_median']:.2f}, in turn {row['times_in_turn']:.2f}"
        print(
            f"{name:<20} best {row['best']:8.0f} tokens/s, median {row['median']:8.0f}, low {row['low']:8.0f}; "
            f"{row['times_best']:.2f} x generate ({times})"
        )
    if options.record:
        command = f"python -m tests.bench.rollout --repeats {options.repeats} --record"
        record = {"tokens_per_answer": tokens, "summary": results, "tokens_per_s": speeds}
        RECORD.write_text(json.dumps({**record, **provenance(options, command)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
