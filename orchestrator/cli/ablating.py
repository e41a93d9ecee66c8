"""`ablate`: what each mechanism brings to a study."""

import time
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.cli.common import EXIT_BAD_INPUT, Format, OutputFormat, Overrides, refusals

ABLATE_EXAMPLES = """
Examples:\n
\b
  orchestrator ablate study=rl_vs_sft
  orchestrator ablate study=rl_vs_sft --only fusion --repeats 3
  orchestrator ablate study=rl_vs_sft --dry-run
\b
Each arrangement is one `orchestrator run` in a home of its own, one after the other. Interrupted, the same command with
the --folder that it printed goes on.
"""


def ablate(
    overrides: Overrides = None,
    only: Annotated[str, typer.Option(metavar="NAME[,NAME]", help="These mechanisms; by default all it uses.")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="So many runs of each arrangement, in turns.")] = 1,
    folder: Annotated[
        Path | None, typer.Option(help="Where the runs lie; by default ablations/STUDY-TIME in the home.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be run and exit.")] = False,
    format: Format = OutputFormat.table,
) -> None:
    """Run a study with all mechanisms, without each of them in turn, and without any; compare what they bring."""
    with refusals():
        from orchestrator.ablation.mechanisms import used_by
        from orchestrator.ablation.runner import Ablation, arrangements
        from orchestrator.home import Home
        from orchestrator.sweep import compose_study

        given = overrides or []
        study = compose_study(given)
        names = _chosen(only, used_by(study))
        planned = arrangements(given, names)
        if dry_run:
            for arrangement in planned:
                typer.echo(f"{arrangement.name}: orchestrator run {' '.join(arrangement.overrides)}")
            return
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        where = folder or Home.from_environment().root / "ablations" / f"{study.name}-{stamp}"
        typer.echo(f"{len(planned)} arrangements x {repeats} of {len(study.variants)} trials, in {where}", err=True)
        ablation = Ablation(
            folder=where.absolute(), arrangements=planned, repeats=repeats, say=lambda line: typer.echo(line, err=True)
        )
        try:
            results = ablation.run()
        except KeyboardInterrupt:
            typer.echo(f"interrupted: the same command with --folder {where} goes on from here", err=True)
            raise
        _print(results, names, format)


def _chosen(only: str, used: tuple[str, ...]) -> tuple[str, ...]:
    asked = tuple(name for name in only.split(",") if name) or used
    for name in asked:
        if name not in used:
            remedy = f"this study uses {', '.join(used) or 'no mechanism that can be switched off'}; name one of those"
            typer.echo(f"error: --only={name}: {remedy}", err=True)
            raise typer.Exit(EXIT_BAD_INPUT)
    return asked


def _print(results: list[dict[str, object]], names: tuple[str, ...], format: OutputFormat) -> None:
    if format is OutputFormat.json:
        import json

        typer.echo(json.dumps(results, indent=2))
        return
    from rich.console import Console

    from orchestrator.ablation.table import grid, legend
    from orchestrator.report.table import print_grid

    console = Console(highlight=False)
    print_grid(grid(results), console)
    for line in legend(names):
        console.print(line, soft_wrap=True, markup=False)
