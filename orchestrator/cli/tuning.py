"""`tune packing`: which packing policy, with which knobs, serves a workload best."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import EXIT_DECIDED, EXIT_INTERRUPTED, Overrides, refusals

if TYPE_CHECKING:
    from orchestrator.simulation.knobs import Real
    from orchestrator.simulation.tune import Search, Tried

PACKING_EXAMPLES = """
Examples:\n
\b
  orchestrator tune packing trace=synthetic trace.trials=2000 --trials 40 --objective jct_mean
  orchestrator tune packing trace=csv trace.file=week.csv trace.nodes=week.nodes.csv packing=best_fit,fragmentation
  orchestrator tune packing trace=alibaba2023 trace.pods=PODS.csv trace.nodes=NODES.csv trace.protocol=arrivals_only \\
      'seed=range(0,3)' --objective unallocated --trials 60 -o conf/packing/fragmentation.yaml
  orchestrator tune packing trace=synthetic interference=post_training packing=frontier --oversubscription 1:2
\b
Overrides are those of `simulate`; what is swept beside the packing (seeds) is averaged over. The same command again
goes on where it was interrupted.
"""


class Objective(StrEnum):
    """`simulation.tune.OBJECTIVES`, without the import that `--help` would pay for."""

    experiments_per_gpu_hour = "experiments_per_gpu_hour"
    experiments_per_cluster_gpu_hour = "experiments_per_cluster_gpu_hour"
    unallocated = "unallocated"
    jct_mean = "jct_mean"
    makespan = "makespan"


def packing(
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option(min=1, help="So many settings are tried in all.")] = 50,
    objective: Annotated[
        Objective,
        typer.Option(
            help="What is best: most experiments per GPU-hour held, or per GPU-hour there is; least percent of the "
            "devices unallocated at 100 % demand (arrivals_only); shortest mean completion time; shortest makespan."
        ),
    ] = Objective.experiments_per_cluster_gpu_hour,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file to deploy; by default tuned/packing/POLICY.yaml in the home."),
    ] = None,
    oversubscription: Annotated[
        str | None,
        typer.Option(metavar="LOW:HIGH", help="Search cluster.oversubscription too, between these."),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="So many runs of one setting (seeds) at a time.")] = 1,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out, and count, what can't be used of a trace.")
    ] = False,
) -> None:
    """Search the packing policies and their knobs in the simulator, and write the config file of the best."""
    with refusals():
        from rich.console import Console

        from orchestrator.home import Home
        from orchestrator.simulation.tune import Search
        from orchestrator.simulation.tuned import deploy, print_best

        home = Home.from_environment()
        home.prepare()
        given = overrides or []
        search = Search(
            given,
            objective.value,
            storage=home.root / "tuning.db",
            skip_bad_rows=skip_bad_rows,
            jobs=jobs,
            oversubscription=_range_of(oversubscription) if oversubscription is not None else None,
        )
        interrupted = _run_to_the_end(search, trials)
        if not search.tried():
            typer.echo("interrupted before the first setting was tried", err=True)
            raise typer.Exit(EXIT_INTERRUPTED)
        print_best(search, Console(highlight=False))
        beside = ["--oversubscription", oversubscription] if oversubscription is not None else []
        command = shlex.join(["orchestrator", "tune", "packing", *given, *beside, "--objective", objective, "--trials"])
        typer.echo(deploy(search, f"{command} {trials}", output or home.root / "tuned" / "packing"))
        if interrupted:
            typer.echo("interrupted: the same command goes on from here", err=True)
        raise typer.Exit(EXIT_INTERRUPTED if interrupted else EXIT_DECIDED)


def _range_of(text: str) -> "Real":
    from orchestrator.config import ConfigError
    from orchestrator.simulation.knobs import Real

    low, _, high = text.partition(":")
    try:
        return Real(low=float(low), high=float(high))
    except ValueError as error:
        raise ConfigError("--oversubscription", text, "give LOW:HIGH, such as 1:2") from error


def _run_to_the_end(search: "Search", trials: int) -> bool:
    """Whether it was interrupted by Ctrl-C. Shows how far it is, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=trials)

        def told(count: int, tried: "Tried") -> None:
            best = search.tried()[0]
            progress.update(bar, completed=count, description=f"best {best.value:.6g}: {' '.join(best.overrides())}")
            if not console.is_terminal:
                said = f"[{count}/{trials}] {tried.value:.6g}: {' '.join(tried.overrides())}"
                typer.echo(f"{said}; best {best.value:.6g}", err=True)

        try:
            search.run(trials, told)
        except KeyboardInterrupt:
            return True
    return False
