"""A store's history as a trace: what was asked for, when, and how long it held its devices.

A stage takes as long as all of its runs held devices together: what was lost with a worker, made room or was extended
adds up. Runs beside others count as they went, slowed down or not. A stage that a selected trial ran carries its
content key, so that whoever needed the same output shares the run again; a stage whose output came from outside the
selection is left out, and so is what never ran or still runs.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.config import ConfigError
from orchestrator.estimate import stage_demand
from orchestrator.ports import Store
from orchestrator.schema import (
    Allocation,
    Demand,
    Device,
    DeviceKind,
    Node,
    Stage,
    Study,
    Trace,
    TraceStage,
    TraceTrial,
    Trial,
)

# Between a stage's key and the number of a further run of it.
_RUN = "#"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """`began_at` is time 0 of the trace [s since the epoch]. `idle_trials` held no device yet and are not in it;
    `running_stages` have not ended, and are left out of their trials."""

    trace: Trace
    began_at: float
    idle_trials: int
    running_stages: int


def export(store: Store, study_ids: Collection[str] = ()) -> Export:
    """The studies `study_ids`, or all there are. Raises ConfigError for an unknown one, and if nothing was run."""
    studies = {study.study_id: study for study in store.studies()}
    unknown = next((study_id for study_id in study_ids if study_id not in studies), None)
    if unknown is not None:
        raise ConfigError("study", unknown, "no such study; `orchestrator studies` lists them")
    chosen = [study for study in studies.values() if not study_ids or study.study_id in study_ids]
    trials = [(study, trial) for study in chosen for trial in store.trials(study.study_id)]
    history = _History(studies, store.allocations(), [trial for _, trial in trials])
    made = [made for study, trial in trials if (made := history.trace_trial(study, trial)) is not None]
    if not made:
        named = ", ".join(study_ids) or "(all)"
        raise ConfigError("study", named, "nothing of it has run to an end yet; `orchestrator run` runs a study")
    began_at = min(trial.submitted_at for trial in made)
    shifted = [replace(trial, submitted_at=trial.submitted_at - began_at) for trial in made]
    return Export(
        trace=Trace(
            name="-".join(study.study_id for study in chosen) if len(chosen) == 1 else "history",
            trials=tuple(sorted(shifted, key=lambda trial: trial.submitted_at)),
            nodes=nodes_of(store.devices(), history.lines),
        ),
        began_at=began_at,
        idle_trials=len(trials) - len(made),
        running_stages=history.running,
    )


def stage_key_of(trace_key: str) -> str:
    """The content key of a stage of an exported trace."""
    return trace_key.partition(_RUN)[0]


def nodes_of(devices: Iterable[Device], ledger: Iterable[Allocation]) -> tuple[Node, ...]:
    """The nodes that a store knows of: the devices its leader recorded last, and those that its ledger names besides.

    A service that ends records that it has no devices any more; the ledger still says which were held, and how much of
    their memory came with a share of them. Nobody recorded the nodes' cores and host memory: they are no limit.
    """
    known = {device.device_id: device for device in devices}
    memory_bytes: dict[str, int] = {}
    for line in ledger:
        for device_id in line.device_ids:
            if device_id not in known:
                memory_bytes[device_id] = max(memory_bytes.get(device_id, 0), round(line.memory_bytes / line.share))
    held = [_device_named(device_id, size) for device_id, size in memory_bytes.items()]
    by_node: dict[str, list[Device]] = {}
    for device in sorted((*known.values(), *held), key=lambda device: (device.node_id, device.index)):
        by_node.setdefault(device.node_id, []).append(device)
    return tuple(Node(node_id=node_id, devices=tuple(there)) for node_id, there in by_node.items())


def _device_named(device_id: str, memory_bytes: int) -> Device:
    """By its id, `NODE/KIND` and its number there, as every cluster names its devices; else on a node of its own."""
    named = re.fullmatch(r"(.+)/(cpu|cuda)(\d+)", device_id)
    node_id, kind, index = named.groups() if named else (device_id, DeviceKind.CUDA.value, "0")
    return Device(
        device_id=device_id, node_id=node_id, index=int(index), kind=DeviceKind(kind), memory_bytes=memory_bytes
    )


@dataclass(eq=False, slots=True)
class _Run:
    """All lines of the ledger in which some trials brought one stage to its end, first to last. `before`: the runs that
    gave way to it when its trials got a longer budget."""

    key: str
    lines: list[Allocation]
    trial_ids: set[str]
    before: set["_Run"] = field(default_factory=set)

    def held(self) -> Iterator[Allocation]:
        for run in (*self.before, self):
            yield from run.lines


class _History:
    """The part of the ledger that some trials have to do with."""

    def __init__(self, studies: Mapping[str, Study], ledger: Sequence[Allocation], trials: Sequence[Trial]) -> None:
        self._studies = studies
        chosen = {trial.trial_id for trial in trials}
        self.lines = [line for line in ledger if not chosen.isdisjoint(line.trial_ids)]
        self.running = sum(line.closed_at is None for line in self.lines)
        self._runs = _runs(self.lines)
        self._of_trial: dict[str, list[_Run]] = {}
        for run in (run for runs in self._runs.values() for run in runs):
            for trial_id in run.trial_ids:
                self._of_trial.setdefault(trial_id, []).append(run)
        for trial in trials:
            self._find_replaced(trial)

    def _find_replaced(self, trial: Trial) -> None:
        """Its runs of stages that it has no more went on in its last one."""
        keys = {stage.key for stage in trial.variant.stages}
        last = self._run(trial, trial.variant.stages[-1])
        if last is not None:
            last.before |= {run for run in self._of_trial.get(trial.trial_id, ()) if run.lines[0].stage_key not in keys}

    def _run(self, trial: Trial, stage: Stage) -> _Run | None:
        """The run that brought the trial past the stage: its own, else the last that had begun when it was submitted,
        else the first one."""
        runs = self._runs.get(stage.key, ())
        own = (run for run in runs if trial.trial_id in run.trial_ids)
        earlier = (run for run in reversed(runs) if run.lines[0].opened_at <= trial.submitted_at)
        return next(own, None) or next(earlier, None) or next(iter(runs), None)

    def trace_trial(self, study: Study, trial: Trial) -> TraceTrial | None:
        """The trial with the stages that ran; its submission in seconds since the epoch. None if none did."""
        runs = [(stage, self._run(trial, stage)) for stage in trial.variant.stages]
        stages = tuple(self._trace_stage(stage, run) for stage, run in runs if run is not None)
        if not stages:
            return None
        return TraceTrial(
            trial_id=trial.trial_id,
            study_id=study.study_id,
            submitted_at=trial.submitted_at,
            stages=stages,
            tenant=study.tenant,
            priority=study.priority,
        )

    def _trace_stage(self, stage: Stage, run: _Run) -> TraceStage:
        return TraceStage(
            name=stage.name,
            demand=_demand(self._studies[run.lines[-1].study_id], stage, run.lines),
            duration_s=sum((line.closed_at or line.opened_at) - line.opened_at for line in run.held()),
            key=run.key,
        )


def _runs(lines: Sequence[Allocation]) -> dict[str, list[_Run]]:
    """By stage key, without those that still run. Lines of one stage belong together where they name a trial in common:
    a study runs its trials' last stages anew, whoever had the same one before. Keys of further runs are numbered."""
    found: dict[str, list[_Run]] = {}
    for line in sorted(lines, key=lambda line: line.opened_at):
        runs = found.setdefault(line.stage_key, [])
        same = [run for run in runs if not run.trial_ids.isdisjoint(line.trial_ids)]
        if same:
            same[0].lines.append(line)
            same[0].trial_ids.update(line.trial_ids)
        else:
            number = f"{_RUN}{len(runs) + 1}" if runs else ""
            runs.append(_Run(line.stage_key + number, [line], set(line.trial_ids)))
    over = {
        key: [run for run in runs if all(line.closed_at is not None for line in run.lines)]
        for key, runs in found.items()
    }
    return {key: runs for key, runs in over.items() if runs}


def _demand(study: Study, stage: Stage, lines: Sequence[Allocation]) -> Demand:
    """What the stage asked for, by the config of the study that ran it: what it was given depends on the policy. Its
    memory is the most that it was thought to need."""
    last = lines[-1]
    demand = Demand(devices=len(last.device_ids), share=last.share, memory_bytes=last.memory_bytes)
    if "cluster" in study.config:
        demand = stage_demand(stage, study.config["cluster"], study.device_kind or DeviceKind.CPU)
    estimated = max(line.estimated_memory_bytes for line in lines)
    kind = demand.kind or str(stage.config.get("algorithm", {}).get("name", stage.name))
    return replace(demand, memory_bytes=estimated or demand.memory_bytes, kind=kind)
