"""What a dry run shows: the variants of a sweep, the stages they share, and what each asks of a device."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from orchestrator.schema import DeviceKind
from orchestrator.submission import Submission


def print_plan(submission: Submission, kind: DeviceKind = DeviceKind.CPU) -> None:
    """Print one row per stage run, in the order in which they become ready, and a summary."""
    demands = submission.demands(kind)
    stages = {stage.key: stage for variant in submission.variants for stage in variant.stages}
    users = Counter(stage.key for variant in submission.variants for stage in variant.stages)
    overrides = {variant.key: " ".join(variant.overrides) for variant in submission.variants}
    table = Table(title=f"{submission.name}: {len(submission.variants)} variants, {len(stages)} stage runs")
    for column in ("stage", "key", "trials", "steps", "devices", "share", "memory", "overrides"):
        table.add_column(column, justify="right" if column in ("trials", "steps", "devices", "share") else "left")
    for key, stage in sorted(stages.items(), key=lambda item: -users[item[0]]):
        demand = demands[key]
        table.add_row(
            stage.name,
            key[:8],
            str(users[key]),
            f"<= {stage.budget_steps}",
            str(demand.devices),
            f"{demand.share:g}",
            f"{demand.memory_bytes / 2**30:.2f} GiB",
            overrides.get(key, "shared"),
        )
    console = Console()
    console.print(table)
    saved = sum(users.values()) - len(stages)
    console.print(f"{saved} of {sum(users.values())} stage runs are saved by sharing. Nothing was started.")
