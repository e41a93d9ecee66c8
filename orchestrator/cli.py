"""The `orchestrator` command. Heavy imports happen inside the commands, so that `--help` answers at once.

Exit codes: 0 all trials decided, 1 a trial failed, 2 bad input, 130 interrupted.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer(
    name="orchestrator",
    help="Packs Hydra sweeps of RL and SFT training variants onto shared devices and counts experiments per GPU-hour.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Start with:\n\n\b\n  orchestrator run study=rl_vs_sft\n  orchestrator report\n  orchestrator run --help",
)

_RUN_EXAMPLES = """
Examples:\n
\b
  orchestrator run study=rl_vs_sft
  orchestrator run study=rl_vs_sft algorithm=grpo 'optimizer.lr=3e-4,1e-3' 'seed=range(0,4)'
  orchestrator run task=gcd cluster.share_per_trial=0.5 --dry-run
  orchestrator run study=rl_vs_sft --cfg job
"""


class OutputFormat(StrEnum):
    """How a report is printed."""

    table = "table"
    json = "json"


class ConfigView(StrEnum):
    """Which config `--cfg` prints; `job` is Hydra's name for the composed one."""

    job = "job"


_REPORT_EXAMPLES = """
Examples:\n
\b
  orchestrator report
  orchestrator report rl_vs_sft-20260101-120000-1a2b --format json
"""
_RESUME_EXAMPLES = """
Examples:\n
\b
  orchestrator resume
  orchestrator resume rl_vs_sft-20260101-120000-1a2b
"""

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[OVERRIDE]...", help="Hydra overrides, sweeps included.", show_default=False),
]
StudyId = Annotated[str | None, typer.Argument(metavar="[STUDY]", help="A study's id; by default the last one.")]


@app.command(epilog=_RUN_EXAMPLES)
def run(
    overrides: Overrides = None,
    cfg: Annotated[ConfigView | None, typer.Option(help="Print the composed config and exit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the variants and their demands and exit.")] = False,
    multirun: Annotated[
        bool, typer.Option("--multirun", "-m", help="Accepted for Hydra's users: a sweep is always one study.")
    ] = False,
) -> None:
    """Run a study: every variant of a Hydra sweep, trained, tracked and compared."""
    del multirun
    with _refusals():
        from orchestrator.sweep import compose_base

        if cfg is not None:
            typer.echo(compose_base(overrides or []), nl=False)
            return
        from orchestrator.home import Home
        from orchestrator.submission import prepare

        home = Home.from_environment()
        submission = prepare(overrides or [], home)
        if dry_run:
            from orchestrator.report.plan import print_plan

            print_plan(submission)
            return
        from orchestrator.execution import run_study

        raise typer.Exit(run_study(submission, home))


@app.command(epilog=_RESUME_EXAMPLES)
def resume(
    study_id: StudyId = None,
) -> None:
    """Continue a study that was interrupted or whose process died; decided trials are kept."""
    with _refusals():
        from orchestrator.execution import resume_study
        from orchestrator.home import Home

        raise typer.Exit(resume_study(study_id, Home.from_environment()))


@app.command(epilog=_REPORT_EXAMPLES)
def report(
    study_id: StudyId = None,
    format: Annotated[OutputFormat, typer.Option(help="For people or for programs.")] = OutputFormat.table,
) -> None:
    """Print a study's comparison, throughput and verdict, also while it runs."""
    with _refusals():
        from orchestrator.home import Home
        from orchestrator.report.stored import print_report

        print_report(study_id, Home.from_environment(), as_json=format is OutputFormat.json)


@app.command(epilog="Example:\n\n\b\n  orchestrator studies")
def studies() -> None:
    """List the studies in the home folder, oldest first."""
    with _refusals():
        from orchestrator.home import Home
        from orchestrator.report.stored import print_studies

        print_studies(Home.from_environment())


@contextmanager
def _refusals() -> Iterator[None]:
    """Turns what the user can mend into one or two lines on standard error and exit code 2, Ctrl-C into 130."""
    from orchestrator.config import ConfigError
    from orchestrator.ports import ClusterUnavailable, TrackingUnavailable

    try:
        yield
    except (ConfigError, ClusterUnavailable, TrackingUnavailable) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None


def main() -> None:
    """Entry point of the console command."""
    app()


if __name__ == "__main__":
    main()
