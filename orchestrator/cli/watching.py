"""Commands that look: `status`, `watch`, `logs`, `explain`, `report`, `studies`."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import (
    EXIT_DECIDED,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    Format,
    OutputFormat,
    StudyId,
    TrialId,
    last_study,
    operations,
    refusals,
)

if TYPE_CHECKING:
    from orchestrator.control.operations import Operations

STATUS_EXAMPLES = """
Examples:\n
\b
  orchestrator status
  orchestrator status rl_vs_sft-20260101-120000-1a2b
  orchestrator status rl_vs_sft-20260101-120000-1a2b-0003 --format json
"""
WATCH_EXAMPLES = """
Examples:\n
\b
  orchestrator watch
  orchestrator watch rl_vs_sft-20260101-120000-1a2b
"""
LOGS_EXAMPLES = """
Examples:\n
\b
  orchestrator logs rl_vs_sft-20260101-120000-1a2b-0003
  orchestrator logs -f rl_vs_sft-20260101-120000-1a2b-0003
"""
EXPLAIN_EXAMPLES = """
Example:\n
\b
  orchestrator explain rl_vs_sft-20260101-120000-1a2b-0003
"""
REPORT_EXAMPLES = """
Examples:\n
\b
  orchestrator report
  orchestrator report rl_vs_sft-20260101-120000-1a2b --format json
  orchestrator report --patience 0.5
"""
STUDIES_EXAMPLES = """
Example:\n
\b
  orchestrator studies
"""

Patience = Annotated[
    float | None,
    typer.Option(min=0.0, metavar="SECONDS", help="How long a user waits; later answers are worth nothing."),
]

# Looking costs the store some time; it gets this part of the time at most.
_WATCH_EVERY_S, _WATCH_PART = 1.0, 0.1
_FOLLOW_EVERY_S = 1.0


def status(
    target: Annotated[
        str, typer.Argument(metavar="[TARGET]", help="A study's or a trial's id; by default all that is open.")
    ] = "",
    format: Format = OutputFormat.table,
) -> None:
    """Who serves, which devices hold what, and for every queued trial why it waits and when it should start and end."""
    with refusals(), operations() as asked:
        document = asked.status(target)
        if format is OutputFormat.json:
            _print_json(document)
            return
        from rich.console import Console

        from orchestrator.report.status import print_status

        print_status(document, Console(highlight=False))


def watch(study_id: StudyId = None) -> None:
    """Watch a study until it is over; Ctrl-C leaves the study alone. Exit codes as of `run`."""
    with refusals(), operations() as asked:
        chosen = study_id or last_study(asked)
        code = follow(asked, chosen)
        typer.echo(f"its report: orchestrator report {chosen}")
        raise typer.Exit(code)


def logs(
    trial_id: TrialId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the trial runs no more.")] = False,
) -> None:
    """Print what a trial's stages printed, one run after the other."""
    with refusals(), operations() as asked:
        bundle_id, offset = "", 0
        while True:
            chunk = asked.logs(trial_id, bundle_id, offset)
            bundle_id, offset = chunk.bundle_id, chunk.offset
            typer.echo(chunk.text, nl=False)
            if not chunk.text:
                if chunk.over or not follow:
                    return
                time.sleep(_FOLLOW_EVERY_S)


def explain(trial_id: TrialId) -> None:
    """Say in words why a trial is where it is, and when it is expected to start and to end."""
    with refusals(), operations() as asked:
        for line in asked.explain(trial_id):
            typer.echo(line)


def report(study_id: StudyId = None, format: Format = OutputFormat.table, patience: Patience = None) -> None:
    """Print a study's comparison, throughput and verdict, also while it runs."""
    with refusals(), operations() as asked:
        print_report(asked, study_id or "", as_json=format is OutputFormat.json, patience_s=patience)


def studies() -> None:
    """List the studies, oldest first."""
    with refusals(), operations() as asked:
        from rich.console import Console

        from orchestrator.report.status import print_studies

        print_studies(asked.studies(), Console(highlight=False))


def print_report(asked: "Operations", study_id: str, *, as_json: bool, patience_s: float | None = None) -> None:
    """Print a study's report; "" is the last one. `patience_s`: of a user who waits so long, not of the study's own."""
    document = asked.report(study_id)
    if patience_s is not None:
        from orchestrator.report.pareto import with_patience

        document = with_patience(document, patience_s)
    if as_json:
        _print_json(document)
        return
    from rich.console import Console

    from orchestrator.report.table import print_tables

    print_tables(document, Console())


def follow(asked: "Operations", study_id: str) -> int:
    """Show the study's progress until it is over. The exit code: 1 if a trial is not decided, 130 after Ctrl-C."""
    from rich.console import Console

    from orchestrator.report.live import LiveView
    from orchestrator.report.progress import progress_in

    try:
        with LiveView(Console(highlight=False)) as view:
            served = True
            while True:
                began = time.monotonic()
                document = asked.status(study_id)
                (study,) = document["studies"]
                if served and not document["service"]["served"] and study["ended_at"] is None:
                    typer.echo("no service runs: the study goes on once `orchestrator serve` does", err=True)
                served = document["service"]["served"]
                view.update(progress_in(document, study["id"], document["at"]))
                if study["ended_at"] is not None:
                    break
                time.sleep(max(_WATCH_EVERY_S, (time.monotonic() - began) / _WATCH_PART))
    except KeyboardInterrupt:
        typer.echo(f"the study goes on; watch it again with: orchestrator watch {study_id}", err=True)
        return EXIT_INTERRUPTED
    counts = study["trials_by_state"]
    return EXIT_FAILED if counts["failed"] + counts["cancelled"] else EXIT_DECIDED


def _print_json(document: object) -> None:
    import json

    typer.echo(json.dumps(document, indent=2))
