"""Commands that start work: `run`, `submit`, `serve`, `resume`."""

from enum import StrEnum
from typing import Annotated

import typer

from orchestrator.cli.common import Overrides, author, carry_out, last_study, operations, refusals
from orchestrator.cli.watching import follow, print_report


class ConfigView(StrEnum):
    """Which config `--cfg` prints; `job` is Hydra's name for the composed one."""

    job = "job"


RUN_EXAMPLES = """
Examples:\n
\b
  orchestrator run study=rl_vs_sft
  orchestrator run study=rl_vs_sft algorithm=grpo 'optimizer.lr=3e-4,1e-3' 'seed=range(0,4)'
  orchestrator run task=gcd cluster.share_per_trial=0.5 --dry-run
  orchestrator run study=rl_vs_sft --cfg job
"""
SUBMIT_EXAMPLES = """
Examples:\n
\b
  orchestrator submit study=rl_vs_sft
  STUDY=$(orchestrator submit study=rl_vs_sft study.tenant=reasoning study.priority=10)
  orchestrator submit task=gcd --wait
"""
SERVE_EXAMPLES = """
Examples:\n
\b
  orchestrator serve
  orchestrator serve tenants=two_teams ordering=fair_share cluster.address=10.0.0.5:6379
  orchestrator serve --http 127.0.0.1:8321
"""
RESUME_EXAMPLES = """
Examples:\n
\b
  orchestrator resume
  orchestrator resume rl_vs_sft-20260101-120000-1a2b
  orchestrator resume rl_vs_sft-20260101-120000-1a2b-0003 --detach
"""


def run(
    overrides: Overrides = None,
    cfg: Annotated[ConfigView | None, typer.Option(help="Print the composed config and exit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the variants and their demands and exit.")] = False,
    multirun: Annotated[
        bool, typer.Option("--multirun", "-m", help="Accepted for Hydra's users: a sweep is always one study.")
    ] = False,
) -> None:
    """Run a study: every variant of a Hydra sweep, trained, tracked and compared. Submits, serves and watches."""
    del multirun
    with refusals():
        if cfg is not None:
            from orchestrator.sweep import compose_base

            typer.echo(compose_base(overrides or []), nl=False)
            return
        from orchestrator.control.connect import is_remote

        if is_remote() and not dry_run:
            raise typer.Exit(_run_remotely(overrides or []))
        from orchestrator.home import Home
        from orchestrator.submission import prepare

        home = Home.from_environment()
        submission = prepare(overrides or [], home)
        from orchestrator.report.plan import notes_of, print_plan

        for note in notes_of(submission):
            typer.echo(note, err=True)
        if dry_run:
            print_plan(submission)
            return
        from orchestrator.execution import run_study

        raise typer.Exit(run_study(submission, home, author()))


def submit(
    overrides: Overrides = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch the study until it is over.")] = False,
) -> None:
    """Queue a study and print its id, alone, on standard output; also while no service runs."""
    with refusals(), operations(new=True) as asked:
        submitted = asked.submit(overrides or [])
        typer.echo(submitted.study_id)
        typer.echo(f"{submitted.trials} trials queued; see: orchestrator watch {submitted.study_id}", err=True)
        if wait:
            raise typer.Exit(follow(asked, submitted.study_id))


def serve(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[OVERRIDE]...",
            help="Hydra overrides of the service's groups: cluster, ordering, packing, preemption, tenants, tracking, "
            "access.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="Also answer the operations over HTTP.")] = "",
) -> None:
    """Schedule the home's queue until Ctrl-C or SIGTERM. A second one waits and takes over when the first dies."""
    with refusals():
        from orchestrator.cli.serving import http_address, service_overrides
        from orchestrator.execution import serve as serve_queue
        from orchestrator.home import Home
        from orchestrator.sweep import compose_study

        address = http_address(http) if http else None
        config = compose_study(service_overrides(overrides or [])).config
        serve_queue(config, Home.from_environment(), address)


def resume(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TARGET]...", help="Ids of studies or trials; by default the last study."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Queue it only, also while no service runs; do not serve here.")
    ] = False,
) -> None:
    """Let what is paused go on. While no service runs, a study is served in this process until it is over."""
    with refusals():
        from orchestrator.control.connect import is_remote
        from orchestrator.schema import CommandKind

        if not detach and not is_remote() and len(targets or []) < 2:
            from orchestrator.cli.serving import study_to_serve
            from orchestrator.home import Home

            home = Home.from_environment()
            study_id = study_to_serve(home, targets[0] if targets else None)
            if study_id is not None:
                from orchestrator.execution import resume_study

                raise typer.Exit(resume_study(study_id, home, author()))
        with operations() as asked:
            chosen = targets or [last_study(asked)]
            raise typer.Exit(carry_out(asked, [(t, asked.command(CommandKind.RESUME, t)) for t in chosen]))


def _run_remotely(overrides: list[str]) -> int:
    with operations() as asked:
        submitted = asked.submit(overrides)
        typer.echo(f"study {submitted.study_id}: {submitted.trials} trials queued")
        code = follow(asked, submitted.study_id)
        print_report(asked, submitted.study_id, as_json=False)
        return code
