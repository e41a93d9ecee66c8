"""A study that really ran, run again in the simulator: are the decisions the same, and is the time?

The trace is the store's own history, the devices are those it was run on, the policies those of the service that ran
it. A *decision* is which stage was given which devices; decisions are compared in the order in which they were taken.
The *makespan* is from the first decision to the last end, so the time that a cluster takes to come up is in neither.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from orchestrator.config import ConfigError
from orchestrator.events import Record, RecordAllocation
from orchestrator.ports import Store
from orchestrator.schema import Allocation, Trace
from orchestrator.simulation.composing import compose_runs
from orchestrator.simulation.export import export, stage_key_of
from orchestrator.simulation.recorder import Recorder
from orchestrator.simulation.runner import Simulation
from orchestrator.simulation.submissions import key_in_trace

_POLICIES = ("ordering", "packing", "preemption", "defragmentation", "tenants")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A stage was given devices. `opened_at` and `closed_at` are in seconds from the first decision."""

    stage_key: str
    stage: str
    device_ids: tuple[str, ...]
    opened_at: float
    closed_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was decided live, and what in the simulator, each in order. `policies` are the names of those that
    simulated, by group. `beside`: the other studies that held devices meanwhile, and of which the simulator knows
    nothing."""

    live: tuple[Decision, ...]
    simulated: tuple[Decision, ...]
    policies: Mapping[str, str]
    beside: tuple[str, ...] = ()

    @property
    def differences(self) -> tuple[tuple[int, Decision | None, Decision | None], ...]:
        """(position, live, simulated) where they differ; None where one has no decision any more."""
        return tuple(
            (position, live, simulated)
            for position, (live, simulated) in enumerate(zip_longest(self.live, self.simulated))
            if _what(live) != _what(simulated)
        )

    @property
    def live_makespan_s(self) -> float:
        return _makespan_s(self.live)

    @property
    def simulated_makespan_s(self) -> float:
        return _makespan_s(self.simulated)

    @property
    def makespan_error(self) -> float:
        """By which part of the live makespan the simulated one is longer; negative if it is shorter."""
        return self.simulated_makespan_s / self.live_makespan_s - 1.0


def _what(decision: Decision | None) -> tuple[str, tuple[str, ...]] | None:
    return None if decision is None else (decision.stage_key, decision.device_ids)


def _makespan_s(decisions: Sequence[Decision]) -> float:
    return max(decision.closed_at for decision in decisions)


def replay(store: Store, study_ids: Collection[str] = (), overrides: Sequence[str] = ()) -> Comparison:
    """Simulate what the studies (default: all) ran, on the devices that the store knows.

    `overrides` are of `conf/simulate.yaml`: a policy's group takes the place of the service's own. Raises ConfigError
    as `export` and `compose_runs` do.
    """
    exported = export(store, study_ids)
    chosen = {trial.trial_id for trial in exported.trace.trials}
    lines = store.allocations()
    ledger = [line for line in lines if not chosen.isdisjoint(line.trial_ids)]
    names = {stage_key_of(stage.key): stage.name for trial in exported.trace.trials for stage in trial.stages}
    config = _config(store, study_ids, overrides)
    recorder = _Lines()
    first_at = min(line.opened_at for line in ledger) - exported.began_at
    trace = _from_when_there_were_devices(exported.trace, first_at)
    Simulation(config, trace, trace.nodes, recorder).to_the_end()
    return Comparison(
        live=_decisions([line for line in ledger if line.closed_at is not None], names),
        simulated=_decisions(list(recorder.lines.values()), names),
        policies={group: str(config[group]["name"]) for group in ("ordering", "packing", "preemption")},
        beside=_beside(ledger, [line for line in lines if chosen.isdisjoint(line.trial_ids)]),
    )


def _beside(ledger: Sequence[Allocation], others: Sequence[Allocation]) -> tuple[str, ...]:
    """The studies of `others` that held devices between the first and the last moment of `ledger`."""
    first = min(line.opened_at for line in ledger)
    last = max(line.opened_at if line.closed_at is None else line.closed_at for line in ledger)
    found = {o.study_id for o in others if o.opened_at < last and (o.closed_at is None or o.closed_at > first)}
    return tuple(sorted(found))


def _from_when_there_were_devices(trace: Trace, at: float) -> Trace:
    """What was submitted before the first decision waited for devices to come up: in order, but no sooner than then."""
    trials = tuple(replace(trial, submitted_at=max(at, trial.submitted_at)) for trial in trace.trials)
    return replace(trace, trials=trials)


def _config(store: Store, study_ids: Collection[str], overrides: Sequence[str]) -> dict[str, Any]:
    """A simulation config with the policies that served the studies, but for those that `overrides` choose."""
    # The trace is at hand: its group is there to be complete, and nothing reads it.
    runs = compose_runs(["trace=csv", "trace.file=history", "durations=learned", *overrides])
    if len(runs) != 1:
        raise ConfigError("sweep", f"{len(runs)} runs", "a replay is one run: give each override one value")
    (run,) = runs
    led = store.lease().config
    studies = [study for study in store.studies() if not study_ids or study.study_id in study_ids]
    served: Mapping[str, Any] = led if "packing" in led else studies[-1].config
    chosen = {override.lstrip("+~").partition("=")[0].partition(".")[0].partition("@")[0] for override in overrides}
    kept = {group: served[group] for group in _POLICIES if group in served and group not in chosen}
    return {**run.config, **kept}


def _decisions(lines: Sequence[Allocation], names: Mapping[str, str]) -> tuple[Decision, ...]:
    """By when they were taken; those of one moment (the same millisecond) by their devices, then by their stages."""
    if not lines:
        return ()
    began_at = min(line.opened_at for line in lines)
    return tuple(
        Decision(
            stage_key=(key := stage_key_of(key_in_trace(line.stage_key))),
            stage=names.get(key, ""),
            device_ids=line.device_ids,
            opened_at=line.opened_at - began_at,
            closed_at=(line.opened_at if line.closed_at is None else line.closed_at) - began_at,
        )
        for line in sorted(
            lines, key=lambda line: (round(line.opened_at - began_at, 3), line.device_ids, line.stage_key)
        )
    )


class _Lines(Recorder):
    """Keeps the ledger too."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: dict[str, Allocation] = {}

    def apply(self, records: Sequence[Record], *, term: int = 0, batch: int = 0) -> None:
        super().apply(records, term=term, batch=batch)
        for record in records:
            if isinstance(record, RecordAllocation):
                self.lines[record.allocation.bundle_id] = record.allocation
