"""What is believed of a stage's demand, and why, in words."""

from collections.abc import Iterator

from orchestrator.control.outlook import Outlook
from orchestrator.estimate import footprint_of
from orchestrator.history import Expected, memory
from orchestrator.report.times import span
from orchestrator.schema import DeviceKind, Stage, Trial
from orchestrator.state import demands
from orchestrator.state.records import StageRecord

_PARTS = (
    "process",
    "weights",
    "gradients",
    "optimizer",
    "gathered",
    "buckets",
    "passing",
    "copies",
    "learning",
    "rollout",
    "evaluation",
    "lost",
)


def demand_in_words(seen: Outlook, trial: Trial, record: StageRecord) -> Iterator[str]:
    """How much memory the stage asks for and where that comes from, and how busy its likes kept their share."""
    asks = f"Stage {record.stage.name} asks for {_size(record.demand.memory_bytes)} of each of its devices"
    yield f"{asks}: {_why(seen, trial, record)}."
    busy = seen.state.utilisation.expected(record.stage)
    if busy is not None:
        yield f"{_runs(busy)} kept {100 * min(1.0, busy.value):.0f} % of their share of a device busy."


def reckoned(seen: Outlook, stage: Stage) -> str:
    """What the expected duration of a stage goes by; empty if there is none."""
    found = seen.state.durations.expected(stage)
    if found is None:
        return ""
    return (
        f" Reckoned from {found.work:.0f} steps of {_runs(found)}, {found.rate:.3g} s each: the whole of stage "
        f"{stage.name} takes {span(found.value)}, in nine of ten cases {span(found.low)} to {span(found.high)}."
    )


def _why(seen: Outlook, trial: Trial, record: StageRecord) -> str:
    devices = record.demand.devices
    peak = seen.state.memory.peak(record.stage, devices)
    match demands.source(seen.state, record):
        case demands.STATED:
            measured = "" if peak is None else f"; {peak.runs} run(s) of {peak.basis} took {_size(peak.memory_bytes)}"
            return f"cluster.memory_per_trial_gib says so{measured}"
        case demands.RAISED:
            return f"it was raised {record.raises} time(s) after it had taken more than it was given"
    if peak is not None:
        percent = 100 * (memory.MARGIN - 1)
        most = f"at most {_size(peak.memory_bytes)} in {peak.runs} run(s) of {peak.basis}"
        return f"measured, {most}, and {percent:.0f} % on top"
    study = seen.state.studies[trial.study_id]
    kind, before = study.device_kind or DeviceKind.CPU, seen.state.stages.get(record.stage.parent_key)
    footprint = footprint_of(record.stage, study.config["cluster"], kind, None if before is None else before.stage)
    parts = ", ".join(f"{name} {_size(getattr(footprint, name))}" for name in _PARTS if getattr(footprint, name) >= 1e6)
    return f"from first principles ({parts}), since none of its shape has been measured{_nearest(seen, record)}"


def _nearest(seen: Outlook, record: StageRecord) -> str:
    near = seen.state.memory.expected(record.stage, record.demand.devices)
    if near is None:
        return ""
    return f"; {_runs(near)} took {_size(near.value)} ({_size(near.low)} to {_size(near.high)})"


def _runs(found: Expected) -> str:
    far = f" at distance {found.distance:.1f}" if found.distance else ""
    return f"{found.runs} run(s) of {found.basis}{far}"


def _size(memory_bytes: float) -> str:
    return f"{memory_bytes / 2**20:.0f} MiB" if memory_bytes < 2**30 else f"{memory_bytes / 2**30:.2f} GiB"
