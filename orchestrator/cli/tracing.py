"""Commands about recorded and generated workloads: `trace export`, `trace generate`, `trace replay`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import EXIT_DECIDED, EXIT_FAILED, refusals

if TYPE_CHECKING:
    from orchestrator.schema import Trace
    from orchestrator.simulation.replay import Comparison, Decision

EXPORT_EXAMPLES = """
Examples:\n
\b
  orchestrator trace export
  orchestrator trace export rl_vs_sft-20260101-120000-1a2b -o study.csv
  orchestrator trace export --all -o history.csv.gz
  orchestrator simulate trace=csv trace.file=study.csv trace.nodes=study.nodes.csv packing=best_fit,exclusive
"""
GENERATE_EXAMPLES = """
Examples:\n
\b
  orchestrator trace generate -o week.csv
  orchestrator trace generate trials=1000000 nodes=1250 load=1.1 seed=3 -o month.csv.gz
  orchestrator trace generate 'gangs=[2:3,8:1,16:1]' cut_short=0.4 -o large.csv
\b
conf/trace/synthetic.yaml lists the knobs. `orchestrator simulate trace=synthetic trace.trials=1000` makes the same
workload without a file.
"""
REPLAY_EXAMPLES = """
Examples:\n
\b
  orchestrator trace replay
  orchestrator trace replay rl_vs_sft-20260101-120000-1a2b
  orchestrator trace replay rl_vs_sft-20260101-120000-1a2b packing=exclusive
\b
Exit codes: 0 the simulator decides as the service did; 1 it decides otherwise; 2 bad input.
"""

_SHOWN = 20

OutputFile = Annotated[
    Path | None, typer.Option("--output", "-o", help="The file; .gz packs it. By default standard output.")
]
NodesFile = Annotated[
    Path | None, typer.Option("--nodes", help="The file of the nodes; by default FILE.nodes.csv beside the other one.")
]


def export(
    study_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY]...", help="Studies' ids; by default the last one.", show_default=False),
    ] = None,
    all_studies: Annotated[bool, typer.Option("--all", help="Everything that this store remembers.")] = False,
    output: OutputFile = None,
    nodes: NodesFile = None,
) -> None:
    """Write what was run, and for how long, as a trace for `simulate`."""
    with refusals():
        from contextlib import closing

        from orchestrator.config import ConfigError
        from orchestrator.home import Home
        from orchestrator.simulation.export import export as export_history
        from orchestrator.store.opening import find_study, open_store

        if study_ids and all_studies:
            raise ConfigError("--all", "true", "name studies, or take all of them")
        with closing(open_store(Home.from_environment())) as store:
            chosen = [] if all_studies else study_ids or [find_study(store, None).study_id]
            exported = export_history(store, chosen)
        _write(exported.trace, output, nodes)
        if exported.idle_trials:
            typer.echo(f"left out: {exported.idle_trials} trials that never held a device", err=True)
        if exported.running_stages:
            typer.echo(f"left out: {exported.running_stages} stages that still run", err=True)


def generate(
    knobs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KNOB=VALUE]...", help="Of conf/trace/synthetic.yaml.", show_default=False),
    ] = None,
    output: OutputFile = None,
    nodes: NodesFile = None,
) -> None:
    """Make a synthetic post-training workload: sweeps, RL and SFT phases, heavy tails, days and nights."""
    with refusals():
        from orchestrator.config import ConfigError
        from orchestrator.simulation.composing import compose_runs
        from orchestrator.simulation.config import TraceConfig
        from orchestrator.simulation.generate import read
        from orchestrator.simulation.workload_model import SyntheticConfig

        overrides = [f"trace.{knob.removeprefix('trace.')}" for knob in knobs or []]
        for override in overrides:
            name, _, value = override.removeprefix("trace.").partition("=")
            if name.partition(".")[0] not in SyntheticConfig.__dataclass_fields__:
                raise ConfigError(name, value, f"there is: {', '.join(SyntheticConfig.__dataclass_fields__)}")
        runs = compose_runs(["trace=synthetic", *overrides])
        if len(runs) != 1:
            raise ConfigError("sweep", f"{len(runs)} workloads", "give each knob one value")
        own = {k: v for k, v in runs[0].config["trace"].items() if k not in TraceConfig.__dataclass_fields__}
        _write(read(**own), output, nodes)


def replay(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY]... [OVERRIDE]...",
            help="Studies' ids, by default the last one; overrides of conf/simulate.yaml.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run studies again in the simulator, and say where it decides otherwise than the service did."""
    with refusals():
        from contextlib import closing

        from orchestrator.home import Home
        from orchestrator.simulation.replay import replay as replay_studies
        from orchestrator.store.opening import find_study, open_store

        named = [argument for argument in arguments or [] if "=" not in argument]
        studies: list[str | None] = [*named] or [None]
        overrides = [argument for argument in arguments or [] if "=" in argument]
        with closing(open_store(Home.from_environment())) as store:
            study_ids = [find_study(store, study).study_id for study in studies]
            found = replay_studies(store, study_ids, overrides)
        _print_comparison(", ".join(study_ids), found)
        raise typer.Exit(EXIT_FAILED if found.differences else EXIT_DECIDED)


def _write(trace: "Trace", output: Path | None, nodes: Path | None) -> None:
    import sys

    from orchestrator.config import ConfigError
    from orchestrator.simulation.trace_files import nodes_path, write_nodes, write_trials, write_trials_to

    target = output or nodes or Path()
    try:
        count = write_trials(output, trace.trials) if output else write_trials_to(sys.stdout, trace.trials)
        where = nodes or (nodes_path(output) if output else None)
        if where is not None and trace.nodes:
            write_nodes(where, trace.nodes)
    except BrokenPipeError:
        raise typer.Exit(EXIT_DECIDED) from None  # whoever read it has seen enough
    except OSError as error:
        raise ConfigError("--output", target, f"{error.strerror}; name a file in a folder that is there") from error
    except ValueError as error:
        raise ConfigError("trace", trace.name, str(error)) from error
    if output is not None:
        typer.echo(f"{count} trials written to {output}", err=True)
        if where is not None and trace.nodes:
            devices = sum(len(node.devices) for node in trace.nodes)
            typer.echo(f"{len(trace.nodes)} nodes with {devices} devices written to {where}", err=True)
            typer.echo(
                f"simulate it: orchestrator simulate trace=csv trace.file={output} trace.nodes={where}", err=True
            )


def _print_comparison(study_id: str, found: "Comparison") -> None:
    policies = ", ".join(f"{group}={name}" for group, name in found.policies.items())
    typer.echo(f"{study_id} under {policies}")
    if found.beside:
        typer.echo(f"  replayed without what held devices meanwhile: {', '.join(found.beside)}; name these too")
    differences = found.differences
    for position, live, simulated in differences[:_SHOWN]:
        typer.echo(f"  decision {position + 1}: live {_in_words(live)}; simulated {_in_words(simulated)}")
    if len(differences) > _SHOWN:
        typer.echo(f"  and {len(differences) - _SHOWN} more")
    same = len(found.live) - sum(live is not None for _, live, _ in differences)
    typer.echo(f"decisions: {same} of {len(found.live)} are the same, in the same order")
    times = f"live {found.live_makespan_s:.1f} s, simulated {found.simulated_makespan_s:.1f} s"
    typer.echo(f"makespan: {times} ({found.makespan_error:+.1%})")


def _in_words(decision: "Decision | None") -> str:
    if decision is None:
        return "nothing any more"
    where = ", ".join(decision.device_ids) or "no device"
    return f"{decision.stage} {decision.stage_key[:8]} on {where} at {decision.opened_at:.1f} s"
