"""Who shares a device with whom, told to `interference` as it happens, and what follows from what that learns."""

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.events import PreemptionDecided
from orchestrator.interference import Seat, undone
from orchestrator.phases import merged
from orchestrator.schema import Demand, Resident
from orchestrator.state.records import Bundle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestrator.state.core import MachineCore


def sit(core: "MachineCore", bundle: Bundle, kind: str) -> None:
    """A bundle has sat down. Work of no kind teaches nothing and is nobody's neighbour, and the members of a stack are
    one program: how they go together is `fusion.Widths`'s."""
    placement = bundle.launch.placement
    if kind and placement.device_ids and not placement.stack_id:
        at = bundle.allocation.opened_at
        seat = Seat(kind=kind, share=placement.share, device_ids=placement.device_ids, since=at)
        core.interference.sit(bundle.launch.bundle_id, seat)


def report(core: "MachineCore", bundle: Bundle, progress: float, at: float) -> None:
    """A bundle has come so far (0 to 1). Stages of one shape on one device model are compared."""
    launch, interference = bundle.launch, core.interference
    if not bundle.request.demand.kind or not launch.devices or launch.placement.stack_id:
        return
    unit = core.memory.shape(launch.stage, len(launch.devices)), launch.devices[0].model
    interference.report(launch.bundle_id, unit, progress * launch.stage.budget_steps, at)
    if interference.due(at):
        if interference.judge(_caps(core), at):
            bar(core)
        core.room.know(interference.excess())


def bar(core: "MachineCore") -> None:
    """Have the room know which kinds may not share a device."""
    core.room.bar(conflicts(core))


def conflicts(core: "MachineCore") -> "Mapping[str, Sequence[str]]":
    """By kind, the kinds that it may not sit beside: as measured, and as phases say."""
    measured = core.interference.conflicts()
    return measured if core.antiphase is None else merged(measured, core.antiphase.conflicts())


def undoing(core: "MachineCore", residents: "Sequence[Resident]", at: float) -> list[PreemptionDecided]:
    """Who leaves, now that their kinds are barred from each other. It is nobody's fault, so it isn't counted."""
    rules = core.interference.rules
    return [
        PreemptionDecided(at=at, bundle_ids=(found.bundle_id,), reason=found.reason, counts=False)
        for found in undone(core.interference.bars, residents, at, rules)
    ]


def as_neighbour(core: "MachineCore", demand: Demand) -> Demand:
    """What a stage asks for under the kind that it is among those it shares a device with."""
    if core.antiphase is not None:
        demand = core.antiphase.taking_turns(demand)
    elif demand.phases:
        demand = replace(demand, phases=(), parkable_bytes=0)
    return with_its_cap(demand)


def with_its_cap(demand: Demand) -> Demand:
    """The demand under a kind that says how much slower it may become, so that what one bars another doesn't suffer
    from. What they do to their neighbours is learned of each."""
    if not demand.kind or not demand.max_slowdown:
        return demand
    return replace(demand, kind=f"{demand.kind} (at most {demand.max_slowdown:g} times)")


def _caps(core: "MachineCore") -> dict[str, float]:
    """By kind, the slowdown that those that run or wait allow; kinds that allow any are left out."""
    running = (bundle.request.demand for bundle in core.bundles.values())
    return {demand.kind: demand.max_slowdown for demand in (*running, *core.queue.demands) if demand.max_slowdown}
