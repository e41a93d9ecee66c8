"""A made-up truth of who slows down whom, and bundles that obey it."""

import random
from collections.abc import Mapping, Sequence

from orchestrator.interference import Neighbours, Seat, Slice

STEP_S = {"sft": 0.1, "grpo": 0.5, "probe": 0.2}
# How many times longer than alone, beside one other of half a device.
TRUTH = {("sft", "sft"): 2.0, ("sft", "grpo"): 1.3, ("grpo", "sft"): 1.4, ("grpo", "grpo"): 2.6}


def slowdown(kind: str, share: float, neighbours: Neighbours, truth: Mapping[tuple[str, str], float]) -> float:
    """Additive, and in proportion to the shares."""
    return 1.0 + sum((truth[kind, other] - 1.0) * other_share / share for other, other_share in neighbours)


def slices(
    kind: str,
    neighbours: Neighbours,
    count: int,
    *,
    share: float = 0.5,
    noise: float = 0.0,
    truth: Mapping[tuple[str, str], float] = TRUTH,
    seed: int = 0,
    at: float = 0.0,
    unit: str = "",
) -> list[Slice]:
    """As many slices of two seconds, each off by a random part of about `noise`."""
    chance = random.Random(f"{seed} {kind} {neighbours}")
    step_s = STEP_S[kind] * slowdown(kind, share, neighbours, truth)
    return [
        Slice(
            unit=unit or kind,
            kind=kind,
            share=share,
            neighbours=neighbours,
            steps=2.0 / step_s * chance.lognormvariate(0.0, noise),
            seconds=2.0,
            at=at + 2.0 * n,
        )
        for n in range(count)
    ]


def seat(kind: str, device_ids: Sequence[str] = ("a/0",), share: float = 0.5, since: float = 0.0) -> Seat:
    """On the first device unless told otherwise."""
    return Seat(kind=kind, share=share, device_ids=tuple(device_ids), since=since)
