"""An ablation side by side: means over repeats, and how many times less there is without each mechanism."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from orchestrator.ablation.mechanisms import MECHANISMS
from orchestrator.report.grid import Grid

Results = Sequence[Mapping[str, Any]]

TITLE = "What each mechanism brings (means over repeats, least to most in brackets)"
RATE = "experiments_per_gpu_hour"
_HEADER = ("arrangement", "experiments / GPU-hour", "part", "completed-equiv. / GPU-hour", "GPU-s", "wall s", "winner")


def grid(results: Results) -> Grid:
    """One row for each arrangement, in the order in which they first come; the first is what `part` compares with."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_name.setdefault(result["arrangement"], []).append(result)
    whole = fmean(_values(next(iter(by_name.values()), []), RATE) or [0.0])
    rows = tuple(
        (
            name,
            _spread(_values(runs, RATE)),
            f"{100 * fmean(_values(runs, RATE)) / whole:.0f} %" if whole else "-",
            _spread(_values(runs, "completed_equivalent_per_gpu_hour")),
            _spread(_values(runs, "device_s")),
            _spread(_values(runs, "wall_s")),
            _winner(runs),
        )
        for name, runs in by_name.items()
    )
    return Grid(TITLE, _HEADER, rows, frozenset(_HEADER[1:6]))


def legend(names: Sequence[str]) -> tuple[str, ...]:
    """What each mechanism is, in a line."""
    return tuple(f"{name}: {MECHANISMS[name].what}" for name in names)


def _values(runs: Results, name: str) -> list[float]:
    return [float(run[name]) for run in runs]


def _spread(values: Sequence[float]) -> str:
    mean = f"{fmean(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4g}-{max(values):.4g})"


def _winner(runs: Results) -> str:
    """Of the first run: whom dev accuracy chose, and its accuracy on test problems."""
    winner = runs[0]["winner"]
    if not winner:
        return "none"
    low, high = (100 * winner[name] for name in ("accuracy_low", "accuracy_high"))
    return f"{' '.join(winner['overrides'])}: {100 * winner['accuracy']:.1f} % ({low:.0f}-{high:.0f})"
