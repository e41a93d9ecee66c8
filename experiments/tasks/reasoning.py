"""Reasoning for reference answers: how one gets to the answer of a reasoning-gym entry, step by step and in short.

For supervised cold starts on chain-of-thought (`answer_format=cot`). Every step is true, and the last one says the
answer. A data set without a tracer is answered with an empty thought: reinforcement learning has to find its own.
"""

import re
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any

_TERM = re.compile(r"([+-]?)\s*(-?\d+)")


def chain_sum(entry: Mapping[str, Any]) -> str:
    """Sums of two, column by column from the units with the carry last, `59+74`: `9+4=13,5+7+1=13`; other chains of
    sums and differences term by term, `15-43-75`: `15-43=-28,-28-75=-103`."""
    terms = [(sign or "+", int(number)) for sign, number in _TERM.findall(entry["metadata"]["expression"])]
    (sign, first), *rest = terms
    first = -first if sign == "-" else first
    if len(rest) == 1 and rest[0][0] == "+" and first >= 0 and rest[0][1] >= 0:
        return _columns(first, rest[0][1])
    signed = [first, *(number if sign == "+" else -number for sign, number in rest)]
    totals = list(accumulate(signed))
    return ",".join(
        f"{before}{sign}{number}={after}"
        for before, (sign, number), after in zip(totals, rest, totals[1:], strict=False)
    )


def _columns(a: int, b: int) -> str:
    steps, carry = [], 0
    digits = max(len(str(a)), len(str(b)))
    for x, y in zip(reversed(f"{a:0{digits}}"), reversed(f"{b:0{digits}}"), strict=True):
        total = int(x) + int(y) + carry
        steps.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        carry = total // 10
    return ",".join(steps)


def count_bits(entry: Mapping[str, Any]) -> str:
    """How many ones there are up to each bit, `1011`: `1,1,2,3`."""
    return ",".join(map(str, accumulate(map(int, entry["metadata"]["binary"]))))


def gcd(entry: Mapping[str, Any]) -> str:
    """Euclid's algorithm, `48,36`: `48%36=12,36%12=0`; with the next number where there are more than two."""
    first, *rest = entry["metadata"]["numbers"]
    steps = []
    for number in rest:
        a, b = max(first, number), min(first, number)
        while b:
            steps.append(f"{a}%{b}={a % b}")
            a, b = b, a % b
        first = a
    return ",".join(steps)


TRACERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "chain_sum": chain_sum,
    "count_bits": count_bits,
    "gcd": gcd,
}
"""By `TaskConfig.dataset`."""


def reasoning(dataset: str, entry: Mapping[str, Any]) -> str:
    """The reasoning to an entry's answer; empty for a data set without a tracer."""
    return TRACERS[dataset](entry) if dataset in TRACERS else ""
