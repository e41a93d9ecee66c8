"""The workload and the nodes that a simulation's config names, and whether the one fits on the other."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.dotted import resolve
from orchestrator.packing.policy import spanning
from orchestrator.ports import TraceError
from orchestrator.schema import Demand, Node, Trace
from orchestrator.simulation.config import TraceConfig
from orchestrator.simulation.nodes import nodes_of
from orchestrator.simulation.oversubscription import Oversubscribed
from orchestrator.simulation.submissions import Survey, survey_of
from orchestrator.snapshot import Room

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A trace, the nodes that it is played on, and what is asked of it as a whole."""

    trace: Trace
    nodes: tuple[Node, ...]
    survey: Survey


def read_workload(config: Mapping[str, Any], *, skip_bad_rows: bool) -> Workload:
    """The workload of a resolved simulation config.

    Raises TraceError for what can't be used of the trace, ConfigError for a reader that can't be called, and if nobody
    says which nodes there are. With `skip_bad_rows`, broken rows and trials that fit nowhere are left out and counted.
    """
    trace, survey = _read(json.dumps(_seeded(config), sort_keys=True), skip_bad_rows)
    if (factor := float(config["cluster"]["oversubscription"])) != 1.0:
        trace = replace(trace, trials=Oversubscribed(trace.trials, factor))
        survey = survey_of(trace.trials)
    nodes = nodes_of(config["cluster"], trace.nodes)
    if not any(node.devices for node in nodes):
        remedy = f"trace={trace.name} doesn't say which nodes there are; set cluster.nodes, or name the trace's own"
        raise ConfigError("cluster.nodes", config["cluster"]["nodes"], remedy)
    room = Room(nodes)
    misfits = {demand: why for demand in survey.demands if (why := misfit(room, demand))}
    if misfits:
        trace = _without_misfits(trace, misfits, skip=skip_bad_rows)
        survey = survey_of(trace.trials)
    return Workload(trace=trace, nodes=nodes, survey=survey)


def forget_workloads() -> None:
    """Let go of what was read last, which the next run would have used again."""
    _read.cache_clear()


def workload_key(config: Mapping[str, Any]) -> str:
    """Equal for runs whose workloads and nodes differ in seeds at most: what refuses one refuses the other."""
    trace = {name: value for name, value in config["trace"].items() if name != "seed"}
    return json.dumps([trace, config["cluster"]], sort_keys=True)


def _seeded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the trace. One that is drawn at random is another one for every seed of the simulation."""
    trace = dict(config["trace"])
    return trace | {"seed": trace["seed"] + config["seed"]} if "seed" in trace else trace


# The runs of a sweep mostly differ in something else than the trace.
@lru_cache(maxsize=1)
def _read(trace: str, skip_bad_rows: bool) -> tuple[Trace, Survey]:
    config = json.loads(trace)
    own = {name: value for name, value in config.items() if name not in TraceConfig.__dataclass_fields__}
    reader = resolve(config["reader"], "trace.reader")
    try:
        inspect.signature(reader).bind(**own, skip_bad_rows=skip_bad_rows)
    except TypeError as error:
        remedy = f"{error}; its arguments are the trace's own fields, and trace={config['name']} has the right ones"
        raise ConfigError("trace.reader", config["reader"], remedy) from error
    read: Trace = reader(**own, skip_bad_rows=skip_bad_rows)
    if not read.trials:
        raise TraceError(read.file or read.name, 0, "holds no trial", "name another trace")
    return read, survey_of(read.trials)


def _without_misfits(trace: Trace, misfits: Mapping[Demand, str], *, skip: bool) -> Trace:
    """With `skip`, the trace without the trials that ask for what fits nowhere; else TraceError for the first."""
    fitting, rows = [], 0
    for trial in trace.trials:
        why = next((misfits[stage.demand] for stage in trial.stages if stage.demand in misfits), "")
        if not why:
            fitting.append(trial)
        elif not skip:
            remedy = "correct it, have other nodes, or leave such rows out by --skip-bad-rows"
            where = f"trial {trial.trial_id} " if not trial.line else ""
            raise TraceError(trace.file or trace.name, trial.line, f"{where}{why}", remedy)
        else:
            rows += len(trial.stages)
    if not fitting:
        raise TraceError(trace.file or trace.name, 0, "none of its trials fits on these nodes", "have other nodes")
    return replace(trace, trials=fitting, skipped_rows=trace.skipped_rows + rows)


def misfit(room: Room, demand: Demand) -> str:
    """Why a demand fits nowhere on the empty nodes, in words; empty if it does."""
    models = sorted(room.models)
    if demand.models and not set(demand.models) & set(models):
        there = ", ".join(model or "one without a name" for model in models)
        return f"unknown GPU model {'|'.join(demand.models)}: there is {there}"
    if room.fitting_nodes(demand).any() or spanning(room, demand):
        return ""
    parts = [f"{demand.devices} device(s) with share {demand.share:g}"]
    parts += [f"{demand.memory_bytes / _GIB:.1f} GiB of device memory"] if demand.memory_bytes else []
    parts += [f"of model {'|'.join(demand.models)}"] if demand.models else []
    parts += [f"{demand.cpus:g} cores", f"{demand.host_memory_bytes / _GIB:.1f} GiB of host memory"]
    on = "one node" if demand.max_nodes < 2 else f"{demand.max_nodes} nodes"
    return f"the demand fits nowhere: {', '.join(parts)} on {on}"
