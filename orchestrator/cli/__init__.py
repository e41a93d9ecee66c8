"""The `orchestrator` command. Heavy imports happen inside the commands, so that `--help` answers at once.

Exit codes: 0 all trials decided, or the command took effect or is queued; 1 a trial failed or was cancelled, or the
service refused the command; 2 bad input; 130 interrupted.
"""

import typer

from orchestrator.cli import (
    ablating,
    caching,
    changing,
    profiling,
    running,
    simulating,
    tokens,
    tracing,
    tuning,
    watching,
)

app = typer.Typer(
    name="orchestrator",
    help="Packs Hydra sweeps of RL and SFT training variants onto shared devices and counts experiments per GPU-hour.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog=(
        "Start with:\n\n\b\n  orchestrator run study=rl_vs_sft\n  orchestrator report\n  orchestrator run --help\n\n"
        "Exit codes: 0 all is decided, done or queued; 1 a trial failed or a command was refused; 2 bad input; "
        "130 interrupted."
    ),
)
token_app = typer.Typer(help="Access tokens of the HTTP service.", no_args_is_help=True, rich_markup_mode=None)
trace_app = typer.Typer(
    help="Workloads for the simulator: recorded ones, generated ones.", no_args_is_help=True, rich_markup_mode=None
)
cache_app = typer.Typer(
    help="Stage outputs and checkpoints: what there is, and making room.", no_args_is_help=True, rich_markup_mode=None
)
tune_app = typer.Typer(
    help="Search the knobs of policies in the simulator.", no_args_is_help=True, rich_markup_mode=None
)

app.command(epilog=running.RUN_EXAMPLES)(running.run)
app.command(epilog=running.SUBMIT_EXAMPLES)(running.submit)
app.command(epilog=running.SERVE_EXAMPLES)(running.serve)
app.command(epilog=watching.STATUS_EXAMPLES)(watching.status)
app.command(epilog=watching.WATCH_EXAMPLES)(watching.watch)
app.command(epilog=watching.LOGS_EXAMPLES)(watching.logs)
app.command(epilog=watching.EXPLAIN_EXAMPLES)(watching.explain)
app.command(epilog=changing.PAUSE_EXAMPLES)(changing.pause)
app.command(epilog=running.RESUME_EXAMPLES)(running.resume)
app.command(epilog=changing.CANCEL_EXAMPLES)(changing.cancel)
app.command(epilog=changing.RETRY_EXAMPLES)(changing.retry)
app.command(epilog=changing.CLONE_EXAMPLES)(changing.clone)
app.command(epilog=changing.EXTEND_EXAMPLES)(changing.extend)
app.command(epilog=watching.REPORT_EXAMPLES)(watching.report)
app.command(epilog=watching.STUDIES_EXAMPLES)(watching.studies)
app.command(epilog=ablating.ABLATE_EXAMPLES)(ablating.ablate)
app.command(epilog=profiling.PROFILE_EXAMPLES)(profiling.profile)
app.command(epilog=simulating.SIMULATE_EXAMPLES)(simulating.simulate)
token_app.command("create", epilog=tokens.CREATE_EXAMPLES)(tokens.create)
token_app.command("list", epilog=tokens.LIST_EXAMPLES)(tokens.list_tokens)
token_app.command("revoke", epilog=tokens.REVOKE_EXAMPLES)(tokens.revoke)
app.add_typer(token_app, name="token")
trace_app.command("export", epilog=tracing.EXPORT_EXAMPLES)(tracing.export)
trace_app.command("generate", epilog=tracing.GENERATE_EXAMPLES)(tracing.generate)
trace_app.command("replay", epilog=tracing.REPLAY_EXAMPLES)(tracing.replay)
app.add_typer(trace_app, name="trace")
cache_app.command("ls", epilog=caching.LS_EXAMPLES)(caching.ls)
cache_app.command("gc", epilog=caching.GC_EXAMPLES)(caching.gc)
app.add_typer(cache_app, name="cache")
tune_app.command("packing", epilog=tuning.PACKING_EXAMPLES)(tuning.packing)
app.add_typer(tune_app, name="tune")


def main() -> None:
    """Entry point of the console command."""
    app()
