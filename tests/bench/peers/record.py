"""The record: one object per run, and what the runs say together. Appended to after each run, so that a benchmark that
was killed goes on where it was.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RATES = {"decided": "decided_per_device_hour", "completed_equivalent": "completed_equivalent_per_device_hour"}
SAME = ("revision", "variants", "machine")
"""What runs of one record have in common."""

Run = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """`ours` is to deliver `factor` times as much of `what` per device-hour as `peer`."""

    peer: str
    what: str
    factor: float


TARGETS = (
    Target("shell_loop", "decided", 12.0),
    Target("tune_asha", "decided", 4.0),
    Target("tune_asha_warm", "decided", 4.0),
    Target("shell_loop", "completed_equivalent", 3.0),
)


def kept_runs(path: Path, like: Run) -> list[dict[str, Any]]:
    """The runs in the record that were made as `like` says; none if there is no record."""
    if not path.exists():
        return []
    return [run for run in json.loads(path.read_text())["runs"] if all(run[name] == like[name] for name in SAME)]


def write(path: Path, runs: Sequence[Run], provenance: Mapping[str, Any]) -> None:
    """The whole record, in one rename."""
    record = {
        "targets": reached(runs),
        "summary": {system: spread_of(_of(runs, system)) for system in dict.fromkeys(run["system"] for run in runs)},
        "winners": winners(runs),
        "runs": list(runs),
        **provenance,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(record, indent=1) + "\n")
    unfinished.rename(path)


def _of(runs: Sequence[Run], system: str) -> list[Run]:
    return [run for run in runs if run["system"] == system]


def spread_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Median, least and most over the repeats of one system, for every number that a run has of its own."""
    names = [
        name for name, value in runs[0].items() if isinstance(value, int | float) and name not in (*SAME, "repeat")
    ]
    out: dict[str, Any] = {"repeats": len(runs)}
    for name in names:
        values = [run[name] for run in runs]
        out[name] = {"median": statistics.median(values), "low": min(values), "high": max(values)}
    return out


def reached(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What became of each target that both systems have runs for. See `_factor` for `work` and `price`."""
    ours = _of(runs, "ours")
    out = []
    for target in TARGETS:
        peers = _of(runs, target.peer)
        if ours and peers:
            factor = _factor(ours, peers, target.what)
            out.append({"peer": target.peer, "what": target.what, "wanted": target.factor, **factor})
            out[-1]["met"] = factor["factor"] >= target.factor
            out[-1]["why"] = why(target, factor)
    return out


def _factor(ours: Sequence[Run], peers: Sequence[Run], what: str) -> dict[str, float]:
    """How many times more per device-hour: of medians over repeats, and the least and most of any two repeats.

    factor = work x price. `work`: how many times less a system trains itself for one of `what` (rules that stop, stages
    that are reused). `price`: how many times fewer device-seconds it holds for the same training (imports, idle time,
    fusion). `by_cluster_time` and `by_wall_time` are the factor with all devices from the first hold to the last
    release, and from the start of the system's process to its exit, in the place of what was held.
    """
    mine, theirs = [r[RATES[what]] for r in ours], [r[RATES[what]] for r in peers]

    def ratio(top: str, bottom: str) -> float:
        return statistics.median(r[top] / r[bottom] for r in ours) / statistics.median(
            r[top] / r[bottom] for r in peers
        )

    def trained(run: Run) -> float:
        return float(run["completed_equivalent"] - run["completed_equivalent_reused"])

    def work(some: Sequence[Run]) -> float:
        return statistics.median(trained(run) / run[what] for run in some)

    factor = statistics.median(mine) / statistics.median(theirs)
    return {
        "factor": factor,
        "low": min(mine) / max(theirs),
        "high": max(mine) / min(theirs),
        "work": work(peers) / work(ours),
        "price": factor * work(ours) / work(peers),
        "by_cluster_time": ratio(what, "cluster_device_s"),
        "by_wall_time": ratio(what, "wall_s"),
    }


def why(target: Target, factor: Mapping[str, float]) -> str:
    """The factor in words, and by how much it misses."""
    text = (
        f"{factor['work']:.1f} x less training for each, at {factor['price']:.1f} x fewer device-seconds for the same "
        f"training"
    )
    if factor["factor"] >= target.factor:
        return text
    short = f"{factor['factor']:.1f} of {target.factor:g}: short by {1 - factor['factor'] / target.factor:.0%}"
    return f"{short}; {text}"


def winners(runs: Sequence[Run]) -> dict[str, Any]:
    """Whether every winner's interval shares points with those of all others, and which pairs' don't."""
    spans = [(run["system"], run["repeat"], run["winner_low"], run["winner_high"]) for run in runs]
    apart = [
        f"{a} {i} and {b} {j}"
        for n, (a, i, low, high) in enumerate(spans)
        for b, j, other_low, other_high in spans[n + 1 :]
        if low > other_high or other_low > high
    ]
    return {"equal_quality": not apart, "apart": apart}


def table(runs: Sequence[Run]) -> str:
    """Medians over the repeats, one line per system, and the targets."""
    head = ("system", "runs", "wall s", "device s", "decided", "dec/dev-h", "(range)", "c-eq/dev-h", "winner %")
    lines = ["{:15}{:>5}{:>8}{:>10}{:>9}{:>11}{:>16}{:>12}{:>10}".format(*head)]
    for system in dict.fromkeys(run["system"] for run in runs):
        row = spread_of(_of(runs, system))
        rate = row["decided_per_device_hour"]
        lines.append(
            f"{system:15}{row['repeats']:>5}{row['wall_s']['median']:>8.1f}{row['device_s']['median']:>10.1f}"
            f"{row['decided']['median']:>9.0f}{rate['median']:>11.0f}{rate['low']:>8.0f}-{rate['high']:<7.0f}"
            f"{row['completed_equivalent_per_device_hour']['median']:>12.0f}"
            f"{100 * row['winner_accuracy']['median']:>10.1f}"
        )
    for target in reached(runs):
        verdict = "met" if target["met"] else "MISSED"
        lines.append(
            f"{verdict}: {target['factor']:.1f} x {target['peer']} in {target['what']} per device-hour "
            f"({target['low']:.1f} to {target['high']:.1f}; wanted {target['wanted']:g}; {target['why']})"
        )
    if runs and (apart := winners(runs)["apart"]):
        lines.append(f"winners of different quality: {'; '.join(apart)}")
    return "\n".join(lines)
