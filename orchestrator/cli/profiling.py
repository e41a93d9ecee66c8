"""`profile`: what a trial's stage spends its time on. For whoever may open the home itself."""

from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import Format, OutputFormat, TrialId, refusals

if TYPE_CHECKING:
    from orchestrator.profiling import Profile

PROFILE_EXAMPLES = """
Examples:\n
\b
  orchestrator profile '#3'
  orchestrator profile rl_vs_sft-20260101-120000-1a2b-0003 --stage warmup --steps 200
  orchestrator profile '#8' --width 8 --format json
  orchestrator profile '#8' --steps 0
\b
The trial's own checkpoints, output and ledger are left alone. Open the trace at https://ui.perfetto.dev or in
chrome://tracing.
"""


def profile(
    trial_id: TrialId,
    stage: Annotated[str, typer.Option(help="By name; by default the trial's last one.")] = "",
    steps: Annotated[int, typer.Option(min=0, help="Time so many steps; 0 runs the whole stage.")] = 50,
    width: Annotated[int, typer.Option(min=1, help="Run so many copies, with other seeds, as one program.")] = 1,
    format: Format = OutputFormat.table,
) -> None:
    """Run some steps of a trial's stage again on a device of this machine; say what they spend their time on, and leave
    a trace of them."""
    with refusals():
        from contextlib import closing

        from orchestrator.home import Home
        from orchestrator.profiling import choose, run
        from orchestrator.profiling.attaching import attach
        from orchestrator.store.opening import open_store

        home = Home.from_environment()
        with closing(open_store(home)) as store:
            choice = choose(store, home, trial_id, stage, steps, width)
        profiled = run(choice, home, lambda line: typer.echo(line, err=True))
        attached = attach(choice, home, profiled)
        if format is OutputFormat.json:
            import json

            typer.echo(json.dumps(profiled.document, indent=2))
            return
        _print(profiled, attached)


def _print(profiled: "Profile", attached: bool) -> None:
    from rich.console import Console

    from orchestrator.profiling.table import operators_grid, overhead_lines, parts_grid
    from orchestrator.report.table import print_grid

    console = Console(highlight=False)
    print_grid(parts_grid(profiled.document), console)
    for line in overhead_lines(profiled.document):
        console.print(line, soft_wrap=True, markup=False)
    console.print()
    print_grid(operators_grid(profiled.document), console)
    where = f"Trace: {profiled.trace}; open it at https://ui.perfetto.dev or in chrome://tracing."
    console.print(f"\n{where}", soft_wrap=True, markup=False)
    if attached:
        console.print("It is an artifact of the trial's run in MLflow too, in `profiles`.", soft_wrap=True)
