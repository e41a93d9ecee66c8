"""Simulated runs side by side: means over seeds, one column for each policy and setting."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from orchestrator.report.grid import Grid
from orchestrator.simulation.results import Result

if TYPE_CHECKING:
    from rich.console import Console

# So many columns are readable beside each other in a terminal.
COLUMNS = 4

Read = Callable[[Result], float | None]


@dataclass(frozen=True, slots=True)
class Group:
    """The runs of one policy and setting, which differ in their seeds."""

    policy: str
    overrides: Mapping[str, str]
    runs: tuple[Result, ...]

    @property
    def name(self) -> str:
        return " ".join([self.policy, *(f"{key}={value}" for key, value in self.overrides.items())])


def groups_of(results: Sequence[Result]) -> list[Group]:
    """In the order in which they first come."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[Result]] = {}
    for result in results:
        found.setdefault((result.policy, tuple(result.overrides.items())), []).append(result)
    return [Group(policy, dict(overrides), tuple(runs)) for (policy, overrides), runs in found.items()]


def _seconds(value: float) -> str:
    return f"{value:,.0f} s" if value >= 1000 else f"{value:.3g} s"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _points(value: float) -> str:
    return f"{value:.2f} %"


_ROWS: tuple[tuple[str, Read, Callable[[float], str]], ...] = (
    ("experiments per GPU-hour held", lambda r: r.experiments_per_gpu_hour, _plain),
    ("experiments per GPU-hour there was", lambda r: r.experiments_per_cluster_gpu_hour, _plain),
    ("makespan", lambda r: r.makespan_s, _seconds),
    ("completion time, mean", lambda r: r.jct_mean_s, _seconds),
    ("completion time, p50", lambda r: r.jct_p50_s, _seconds),
    ("completion time, p99", lambda r: r.jct_p99_s, _seconds),
    ("wait, mean", lambda r: r.wait_mean_s, _seconds),
    ("wait, p50", lambda r: r.wait_p50_s, _seconds),
    ("wait, p99", lambda r: r.wait_p99_s, _seconds),
    ("utilisation", lambda r: r.utilisation, _percent),
    ("unallocated at 100 % demand", lambda r: r.unallocated_share_at_100, _points),
    ("unallocated at 130 % demand", lambda r: r.unallocated_share_at_130, _points),
    ("fragmentation", lambda r: r.fragmentation, _percent),
    ("finish-time ratio, mean", lambda r: r.fairness.mean if r.fairness else None, _plain),
    ("finish-time ratio, max", lambda r: r.fairness.max if r.fairness else None, _plain),
    ("preemptions", lambda r: float(r.preemptions), _plain),
    ("placed", lambda r: float(r.placed), _plain),
    ("dropped", lambda r: float(r.dropped), _plain),
    ("failed", lambda r: float(r.failed), _plain),
    ("unfinished", lambda r: float(r.unfinished), _plain),
    ("rows skipped", lambda r: float(r.skipped_rows) if r.skipped_rows else None, _plain),
    ("simulated in", lambda r: r.wall_s, _seconds),
)


def grids(results: Sequence[Result]) -> Iterator[Grid]:
    """The comparison, at most `COLUMNS` policies beside each other, then the tenants if there are several."""
    groups = groups_of(results)
    for start in range(0, len(groups), COLUMNS):
        yield _comparison(groups[start : start + COLUMNS])
    if any(len(group.runs[0].fairness_by_tenant) > 1 for group in groups):
        yield _tenants(groups)


def _comparison(groups: Sequence[Group]) -> Grid:
    rows = []
    for name, read, in_words in _ROWS:
        cells = [_spread([read(run) for run in group.runs], in_words) for group in groups]
        if any(cells):
            rows.append((name, *cells))
    names = [group.name for group in groups]
    seeds = max(len(group.runs) for group in groups)
    spread = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    return Grid(f"Simulated{spread}", ("", *names), tuple(rows), frozenset(names))


def _tenants(groups: Sequence[Group]) -> Grid:
    rows = []
    for group in groups:
        for tenant in sorted({name for run in group.runs for name in run.fairness_by_tenant}):
            fair = [run.fairness_by_tenant[tenant] for run in group.runs if tenant in run.fairness_by_tenant]
            mean, most = _spread([f.mean for f in fair], _plain), _spread([f.max for f in fair], _plain)
            rows.append((group.name, tenant, mean, most))
    header = ("policy", "tenant", "mean", "max")
    return Grid("Finish-time ratio by tenant", header, tuple(rows), frozenset(("mean", "max")))


def _spread(values: Sequence[float | None], in_words: Callable[[float], str]) -> str:
    """Mean ± standard deviation; without the latter if there is one value or all are alike; empty for none."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    mean, spread = fmean(known), stdev(known) if len(known) > 1 else 0.0
    return f"{in_words(mean)} ± {in_words(spread)}" if spread > 0 else in_words(mean)


def print_table(results: Sequence[Result], console: "Console") -> None:
    """For a terminal."""
    from rich.table import Table

    for grid in grids(results):
        table = Table(title=grid.title, title_justify="left")
        for name in grid.header:
            table.add_column(name, justify="right" if name in grid.numbers else "left")
        for row in grid.rows:
            table.add_row(*row)
        console.print(table)
