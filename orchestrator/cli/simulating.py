"""`simulate`: workloads in virtual time, under the policies of the live service."""

import shlex
from typing import Annotated

import typer

from orchestrator.cli.common import EXIT_DECIDED, Format, OutputFormat, Overrides, refusals
from orchestrator.cli.running import ConfigView

SIMULATE_EXAMPLES = """
Examples:\n
\b
  orchestrator simulate trace=synthetic packing=best_fit,first_fit,exclusive
  orchestrator simulate trace=alibaba2023 trace.pods=PODS.csv trace.nodes=NODES.csv \\
      trace.protocol=arrivals_only 'packing=best_fit,fragmentation' 'seed=range(0,10)' --format json
  orchestrator simulate -m cluster.nodes=8,10,12 ordering=fifo,shortest_first
  orchestrator simulate packing=fragmentation packing.popularity=0.8,0.95 --jobs 4 --out results
  orchestrator simulate cluster.nodes=16 --dry-run
"""


def simulate(
    overrides: Overrides = None,
    format: Format = OutputFormat.table,
    jobs: Annotated[
        int, typer.Option(min=0, help="So many runs at a time; 1 runs in this process, 0 takes every core.")
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run and exit.")] = False,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out, and count, what can't be used of a trace.")
    ] = False,
    out: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Where results.json and simulation.html go; by default simulations/NAME-TIME in the home, and with "
            "--format json nowhere.",
        ),
    ] = "",
    track: Annotated[
        bool | None,
        typer.Option(
            "--track/--no-track",
            help="Log the runs to the home's MLflow; by default yes, and with --format json no.",
            show_default=False,
        ),
    ] = None,
    cfg: Annotated[ConfigView | None, typer.Option(help="Print the composed config and exit.")] = None,
    multirun: Annotated[
        bool, typer.Option("--multirun", "-m", help="Accepted for Hydra's users: every combination is one run.")
    ] = False,
) -> None:
    """Simulate a workload under every combination of policies, seeds and knobs, and compare what came of it."""
    del multirun
    with refusals():
        from orchestrator.simulation.composing import compose_base, compose_runs

        given = overrides or []
        if cfg is not None:
            typer.echo(compose_base(given), nl=False)
            return
        runs = compose_runs(given)
        if dry_run:
            from orchestrator.simulation.plan import print_plan

            print_plan(runs, skip_bad_rows=skip_bad_rows)
            return
        from orchestrator.simulation.command import Output, run_and_report

        as_json = format is OutputFormat.json
        wanted = Output(
            as_json=as_json,
            track=not as_json if track is None else track,
            files=bool(out) or not as_json,
            folder=out,
            command=shlex.join(["orchestrator", "simulate", *given]),
        )
        run_and_report(runs, wanted, jobs=jobs, skip_bad_rows=skip_bad_rows)
        raise typer.Exit(EXIT_DECIDED)
