"""What follows when a bundle took more memory than it was given: a larger demand, or the end of its trials.

A raise costs no attempt, since nothing was wrong with the worker. Whatever has the same shape and has not run yet
learns from it, so that a sweep runs into the same wall once and not once per trial.
"""

from dataclasses import replace

from orchestrator.events import Instruction, MemoryExceeded
from orchestrator.schema import Demand, DeviceKind, StageState
from orchestrator.state.core import MachineCore
from orchestrator.state.records import Bundle, StageRecord

# What was seen is what it had when it was caught, on its way to more.
OVER_USED = 1.2
# Three raises come to 3.4 times the first limit, whatever was seen: an estimate is off by a factor, not by a slice.
OVER_LIMIT = 1.5


def raised_bytes(used_bytes: int, limit_bytes: int) -> int:
    """What to ask for in place of a limit that was not enough [bytes]."""
    return int(max(OVER_USED * used_bytes, OVER_LIMIT * limit_bytes))


def with_more(demand: Demand, memory_bytes: int, *, on_host_too: bool) -> Demand:
    """The demand with so much memory of each device, if that is more. `on_host_too`: a core stands in for a GPU, so its
    memory is the host's."""
    more = max(0, memory_bytes - demand.memory_bytes)
    host = demand.devices * more if on_host_too else 0
    return replace(demand, memory_bytes=demand.memory_bytes + more, host_memory_bytes=demand.host_memory_bytes + host)


def raise_memory(core: MachineCore, bundle: Bundle, event: MemoryExceeded) -> list[Instruction]:
    """Close the bundle and let its stage wait again at its old place, with its checkpoint, for more memory."""
    record = core.stages[bundle.launch.stage.key]
    was, largest = record.demand, _largest(core, record.demand, event)
    record.raises += 1
    record.progress = max(record.progress, bundle.saved_progress)
    enough = min(raised_bytes(event.used_bytes, event.limit_bytes), largest)
    if event.on_host:
        record.demand = replace(was, host_memory_bytes=max(was.host_memory_bytes, enough))
    else:
        record.demand = with_more(was, enough, on_host_too=bundle.launch.devices[0].kind is DeviceKind.CPU)
    _teach(core, record, was)
    given = record.demand.host_memory_bytes if event.on_host else record.demand.memory_bytes
    why = f"{took(event)}: it waits for {_gib(given)} (raise {record.raises} of {core.max_memory_raises})"
    return core.close(bundle, event.at) + core.requeue(record, event.at, why + _stated(core, bundle))


def refusal(core: MachineCore, bundle: Bundle, event: MemoryExceeded) -> str:
    """Why the stage can't be given more, what it would need and what to do, for people; "" if it can be given more."""
    record = core.stages[bundle.launch.stage.key]
    largest = _largest(core, record.demand, event)
    needs = f"it needs about {_gib(OVER_USED * event.used_bytes)} GiB"
    if event.used_bytes > largest or event.limit_bytes >= largest:
        there = f"no {'node' if event.on_host else 'device that will do'} here has more than {_gib(largest)}"
        return f"{took(event)}, and {there}; {needs}: {_remedy(event)}"
    if record.raises >= core.max_memory_raises:
        times = f"raised {record.raises} times (cluster.max_memory_raises={core.max_memory_raises})"
        gib = f"{OVER_USED * event.used_bytes / 2**30:.1f}"
        stated = "" if event.on_host else f"cluster.memory_per_trial_gib={gib}, "
        return f"{took(event)}, {times}; {needs}: {stated}{_remedy(event)}"
    return ""


def took(event: MemoryExceeded) -> str:
    """What happened, in words."""
    where = "host memory" if event.on_host else "device memory"
    return f"it took {_gib(event.used_bytes)} GiB of {where} at its limit of {_gib(event.limit_bytes)}"


def _remedy(event: MemoryExceeded) -> str:
    if event.on_host:
        return "a smaller model, or no offloading (deepspeed=zero2 in place of deepspeed=zero2_offload)"
    return (
        "a smaller batch or model, deepspeed=bf16, or ZeRO over more devices (deepspeed=zero3 "
        "cluster.devices_per_trial=2)"
    )


def _stated(core: MachineCore, bundle: Bundle) -> str:
    """That a person's own word was not enough, if it was. The study that it began for may be forgotten by now, while it
    goes on for another one."""
    study = core.studies.get(bundle.launch.study_id)
    cluster = study.config.get("cluster", {}) if study is not None else {}
    stated = float(cluster.get("memory_per_trial_gib", 0.0))
    return f"; cluster.memory_per_trial_gib={stated:g} is not enough" if stated else ""


def _largest(core: MachineCore, demand: Demand, event: MemoryExceeded) -> int:
    """The most that any device, or node, has that the demand may go to [bytes]; what was asked for if none is there:
    a larger one may come."""
    room = core.room
    there = room.largest_host_memory_bytes() if event.on_host else room.largest_memory_bytes(demand.models)
    return there or raised_bytes(event.used_bytes, event.limit_bytes)


def _teach(core: MachineCore, taught: StageRecord, was: Demand) -> None:
    """What has the same shape and doesn't run asks for as much from now on: what asks for the same by now, whoever said
    so, and by the history what will be submitted later."""
    core.memory.exceeded(taught.stage, was.devices, taught.demand)
    shape = core.memory.shape(taught.stage, was.devices)
    for record in core.stages.values():
        alike = record.state is StageState.ABSENT and record.demand == was
        if alike and core.memory.shape(record.stage, was.devices) == shape:
            core.queue.ask(record, taught.demand)


def _gib(memory_bytes: float) -> str:
    return f"{memory_bytes / 2**30:.2f}"
