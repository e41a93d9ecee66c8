"""What a simulation would run, before it does."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.schema import Trace
from orchestrator.simulation.composing import ComposedRun
from orchestrator.simulation.traces import read_workload

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS_PER_HOUR = 3600.0


def gpu_hours(trace: Trace) -> float:
    """What the trials of a trace ask for: devices x share x duration [device-hours]; a shared stage counts once."""
    asked, seen = 0.0, set()
    for stage in (stage for trial in trace.trials for stage in trial.stages):
        if stage.key and stage.key in seen:
            continue
        seen.add(stage.key)
        asked += stage.demand.devices * stage.demand.share * stage.duration_s
    return asked / _SECONDS_PER_HOUR


def print_plan(runs: Sequence[ComposedRun], *, skip_bad_rows: bool, console: "Console | None" = None) -> None:
    """Each run with its trials, devices and demand. Raises as `traces.read_workload` does."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{len(runs)} runs", title_justify="left")
    for name in ("policy", "seed", "swept"):
        table.add_column(name)
    for name in ("trials", "nodes", "devices", "demand, GPU-hours", "skipped rows"):
        table.add_column(name, justify="right")
    for run in runs:
        workload = read_workload(run.config, skip_bad_rows=skip_bad_rows)
        trace, nodes = workload.trace, workload.nodes
        swept = " ".join(f"{key}={value}" for key, value in run.swept.items() if key not in ("packing", "seed"))
        numbers = (len(trace.trials), len(nodes), sum(len(node.devices) for node in nodes))
        cells = [f"{number:,}" for number in numbers]
        cells += [f"{gpu_hours(trace):,.1f}", f"{trace.skipped_rows:,}"]
        table.add_row(run.config["packing"]["name"], str(run.config["seed"]), swept, *cells)
    (console or Console(highlight=False)).print(table)
