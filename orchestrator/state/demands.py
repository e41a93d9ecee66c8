"""What stages ask for as it becomes known what they take.

A stage asks for what was estimated until a run of its shape has been measured, and from then on for what was measured,
with a margin. What runs keeps what it was given. What a person has stated stays as it is.
"""

from dataclasses import replace
from typing import Any

from orchestrator.events import Instruction, RecordMeasured, StageMeasured
from orchestrator.schema import DeviceKind
from orchestrator.state.core import MachineCore
from orchestrator.state.records import Bundle, StageRecord

FIRST_PRINCIPLES, STATED, MEASURED, RAISED = "first principles", "stated", "measured", "raised"
EACH_AS_ALONE, MEASURED_STACK = " alone, for each member of a stack", "measured stacks"


def source(core: MachineCore, record: StageRecord) -> str:
    """Where the memory that a stage asks for comes from."""
    if record.raises:
        return RAISED
    if record.stated:
        return STATED
    return FIRST_PRINCIPLES if core.memory.peak(record.stage, record.demand.devices) is None else MEASURED


def estimates(core: MachineCore, record: StageRecord, width: int = 1) -> dict[str, Any]:
    """What is expected of a run of the stage in a program of `width` members, as the fields of its line of the ledger.

    A member's peak is its part of what its program took, so it is held against its part of what the program was thought
    to take: as stacks were measured, else as if each took what it takes alone.
    """
    left = 1.0 - record.progress
    memory_bytes, estimated_from = record.demand.memory_bytes, source(core, record)
    if width > 1:
        measured = core.widths.memory_bytes(core.queue.request(record).fusion_key, width)
        if measured is None:
            estimated_from += EACH_AS_ALONE
        else:
            memory_bytes, estimated_from = min(memory_bytes, measured // width), MEASURED_STACK
    expected = core.durations.expected(record.stage, left, width)
    return {
        "estimated_memory_bytes": memory_bytes,
        "estimated_from": estimated_from,
        "expected_s": core.durations.expected_s(record.stage, left, width),
        "expected_low_s": None if expected is None else expected.low,
        "expected_high_s": None if expected is None else expected.high,
    }


def measure(core: MachineCore, bundle: Bundle, event: StageMeasured) -> list[Instruction]:
    """A bundle was measured: its line says so, and those of its shape that wait ask for what it takes."""
    line = bundle.allocation
    peak = max(line.peak_memory_bytes, event.memory_bytes)
    utilisation = line.utilisation if event.utilisation is None else event.utilisation
    if (peak, utilisation) == (line.peak_memory_bytes, line.utilisation):
        return []
    bundle.allocation = replace(line, peak_memory_bytes=peak, utilisation=utilisation)
    core.utilisation.observe(line.bundle_id, bundle.launch.stage, utilisation)
    learn(core, bundle, event.memory_bytes, event.host_memory_bytes)
    return [RecordMeasured(bundle_id=line.bundle_id, peak_memory_bytes=peak, utilisation=utilisation)]


def complete(core: MachineCore, bundle: Bundle, peak_memory_bytes: int) -> None:
    """A run ended with its stage done: what it took is all that there is to take."""
    line = bundle.allocation
    peak = max(line.peak_memory_bytes, peak_memory_bytes)
    if peak > line.peak_memory_bytes:
        bundle.allocation = replace(line, peak_memory_bytes=peak)
    # What nobody enforces, nobody measures well: in one process with others a stage seems to take what they take.
    counts = min(peak, line.memory_bytes)
    devices = bundle.launch.devices
    on_host = counts * len(devices) if devices and devices[0].kind is DeviceKind.CPU else 0
    learn(core, bundle, counts, on_host, whole=True)


def learn(core: MachineCore, bundle: Bundle, memory_bytes: int, host_memory_bytes: int, whole: bool = False) -> None:
    """Have those that wait ask for what a run of their shape was seen to take; `whole`: it was seen to its end. What a
    member of a stack takes says something of stacks, and nothing of a run alone."""
    if (stack := core.stacks.of(bundle.launch.placement)) is not None:
        if not whole:
            members = len(stack.members)
            core.widths.observe_memory(stack.fusion_key, members, members * memory_bytes)
        return
    stage, devices = bundle.launch.stage, len(bundle.allocation.device_ids)
    if core.memory.observe(bundle.allocation.bundle_id, stage, devices, memory_bytes, host_memory_bytes, whole):
        correct_all(core, bundle)


def correct_all(core: MachineCore, bundle: Bundle) -> None:
    """Those of the bundle's shape that wait ask for what is known by now."""
    devices = len(bundle.allocation.device_ids)
    shape = core.memory.shape(bundle.launch.stage, devices)
    alike = [r for r in core.queue.records() if core.memory.shape(r.stage, r.demand.devices) == shape]
    for record in alike:
        core.correct(record)
