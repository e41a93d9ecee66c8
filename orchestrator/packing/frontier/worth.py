"""What a node's free devices, cores and host memory are worth to those who come, learned from those who came.

All amounts are whole numbers, of devices in `SHARE_UNITS`, of cores in thousandths, of host memory in MiB: two ways to
work out the same thing agree to the last digit. Nodes whose devices have models that the same demands accept form a
*group*, with tables of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from orchestrator.packing.frontier.cutting import LEVELS, Cutting, Levels, Reals, cutting, fill
from orchestrator.packing.frontier.premiums import Premiums
from orchestrator.schema import Demand
from orchestrator.snapshot import NO_LIMIT, SHARE_UNITS, Counts, Room, milli_cpus

# The worth of a rest is this part what chance would fill it with, and otherwise what the best cutting makes of it: the
# best cutting leaves ties.
_CHANCE = 0.2
# Who waits for less than this part of all arrivals waits in vain.
_PATIENCE = 0.02
# So much of the devices that run out of cores or host memory counts.
_STRANDING = 0.5
# What it is worth that a gang would fit, as a part of what gangs like it take in all.
_GANG = 0.5
# Cores and host memory are looked up in so many steps.
_STEPS = 128
# While fewer than so many have come, the tables are made anew only once so many times as many have, or this part of all
# arrivals is others than it was; later each time that something else is expected.
_EARLY, _GROWN, _MOVED = 1_000, 2.0, 0.15

Chosen = npt.NDArray[np.bool_]
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """The demands that came, as arrays [demands]: `level` is the part of a device, in levels; `models` [demands,
    models] says which they accept."""

    devices: Counts
    level: Levels
    milli_cpus: Counts
    host_memory: Counts
    models: Chosen
    rates: Reals


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """rests [3, groups, LEVELS + 1]: what the rest of a device is worth, and the cores and the host memory that those
    who will use it take; nothing at level LEVELS, for that is in `whole` [groups, devices, cores, host memory]: what so
    many free devices are worth beside so many steps of cores and of host memory, as far as nodes of the group have
    so many. group: of each node. bound [models]: which part of the device share that is asked for is bound to the
    model, that of several by how much there is. premiums: see there."""

    rests: Counts
    whole: Counts
    group: Counts
    bound: Reals
    premiums: Premiums
    cpu_step: int
    memory_step: int


def device_memory_bytes(room: Room) -> int:
    """What most devices have; 0 if nobody says."""
    return int(np.median(room.whole_memory_bytes[room.exists])) if room.exists.any() else 0


def size_levels(demand: Demand, memory_bytes: int) -> int:
    """The part of a device that the demand takes, by share or by memory, in levels rounded to the nearest."""
    share = demand.share
    if memory_bytes > 0:
        share = max(share, demand.memory_bytes / memory_bytes)
    return min(LEVELS, max(1, round(share * LEVELS)))


def worth_of(room: Room, expected: Mapping[Demand, float]) -> Worth:
    """The tables for a workload in which each demand comes as often as `expected` says, or those that were made last
    where that was much the same."""
    made: tuple[Mapping[Demand, float], Worth] | None = room.cache.get("worth")
    if made is None or _differs(made[0], expected):
        made = room.cache["worth"] = expected, _made(room, expected)
    return made[1]


def _differs(before: Mapping[Demand, float], now: Mapping[Demand, float]) -> bool:
    total_before, total = sum(before.values()), sum(now.values())
    if total >= _EARLY or not total_before < total < _GROWN * total_before:
        return before != now
    moved = sum(max(0.0, times / total - before.get(demand, 0.0) / total_before) for demand, times in now.items())
    return moved > _MOVED


def _made(room: Room, expected: Mapping[Demand, float]) -> Worth:
    """The tables for a workload in which each demand comes as often as `expected` says."""
    demands = _demands(room, expected)
    cpu_step, memory_step = _step(room.whole_milli_cpus), _step(room.whole_host_memory_bytes // MIB)
    codes = np.maximum(room.model.max(axis=1, initial=-1), 0)
    group = np.zeros(len(room.nodes), np.int64)
    # By which demands they accept: the first of the models that do, and the group's number.
    known: dict[bytes, tuple[int, int]] = {}
    for code in range(demands.models.shape[1]):
        _, group[codes == code] = known.setdefault(demands.models[:, code].tobytes(), (code, len(known)))
    counts = room.exists.sum(axis=1)
    tables = [
        _group(demands, demands.models[:, code], int(counts[group == number].max(initial=1)), (cpu_step, memory_step))
        for code, number in known.values()
    ]
    widest = max(len(table.whole) for table in tables)
    whole = np.zeros((len(tables), widest, _STEPS + 1, _STEPS + 1), np.int64)
    for number, table in enumerate(tables):
        whole[number, : len(table.whole)] = table.whole
    return Worth(
        rests=np.stack([table.rests for table in tables], axis=1),
        whole=whole,
        group=group,
        bound=_bound(demands, np.array([(room.model == code).sum() for code in range(demands.models.shape[1])])),
        premiums=Premiums.of(room, expected),
        cpu_step=cpu_step,
        memory_step=memory_step,
    )


def _bound(demands: Demands, there: Counts) -> Reals:
    asked = demands.rates * demands.devices * demands.level
    bound = demands.models & ~demands.models.all(axis=1, keepdims=True)
    parts = bound * there
    parts = parts / np.maximum(parts.sum(axis=1, keepdims=True), 1)
    return np.asarray(asked @ parts / max(asked.sum(), 1e-9), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    rests: Counts
    whole: Counts


def _step(whole: Counts) -> int:
    """The step that takes the largest node that says what it has through the table."""
    return max(1, -(-int(whole[whole < NO_LIMIT // MIB].max(initial=1)) // _STEPS))


def _demands(room: Room, expected: Mapping[Demand, float]) -> Demands:
    widest = room.share.shape[1]
    came = [(demand, times) for demand, times in expected.items() if times > 0 and demand.devices <= widest]
    every = sum(expected.values())
    memory_bytes = device_memory_bytes(room)
    models = room.models or ("",)
    return Demands(
        devices=np.array([demand.devices for demand, _ in came], np.int64),
        level=np.array([size_levels(demand, memory_bytes) for demand, _ in came], np.int64),
        milli_cpus=np.array([milli_cpus(demand.cpus) for demand, _ in came], np.int64),
        host_memory=np.array([demand.host_memory_bytes // MIB for demand, _ in came], np.int64),
        models=np.array(
            [[demand.devices > 0 and _accepts(demand, model) for model in models] for demand, _ in came], np.bool_
        ).reshape(len(came), len(models)),
        rates=np.array([times / every for _, times in came], np.float64),
    )


def _accepts(demand: Demand, model: str) -> bool:
    return not demand.models or model in demand.models


def _best_cutting(demands: Demands, of: Chosen) -> tuple[Levels, Cutting]:
    """The sizes that come, and the best cutting into them."""
    sizes, which = np.unique(demands.level[of], return_inverse=True)
    rates = np.asarray(np.bincount(which, demands.rates[of] * demands.devices[of]), np.float64)
    return sizes, cutting(sizes, rates)


def _group(demands: Demands, accepting: Chosen, widest: int, steps: tuple[int, int]) -> _Group:
    """The tables of nodes with devices that these demands accept, `widest` at most."""
    if not accepting.any():
        flat = np.arange(LEVELS + 1) * (SHARE_UNITS // LEVELS)
        flat[LEVELS] = 0
        nothing = np.zeros(LEVELS + 1, np.int64)
        linear = np.arange(widest + 1)[:, None, None] * np.full((1, _STEPS + 1, _STEPS + 1), SHARE_UNITS)
        return _Group(rests=np.stack([flat, nothing, nothing]), whole=linear)
    sizes, best = _best_cutting(demands, accepting)
    rests = _rests(demands, accepting & (demands.devices == 1), best)
    price = dict(zip(sizes.tolist(), best.price.tolist(), strict=True))
    whole = _wholes(demands, accepting, price, widest, steps)
    return _Group(rests=rests, whole=whole)


def _rests(demands: Demands, singles: Chosen, best: Cutting) -> Counts:
    """By level: what a rest is worth, and the cores and host memory that those who will use it take."""
    worth = best.worth
    cpus, memory = np.zeros(LEVELS + 1), np.zeros(LEVELS + 1)
    if singles.any():
        sizes, which = np.unique(demands.level[singles], return_inverse=True)
        rates = demands.rates[singles]
        of_size = np.asarray(np.bincount(which, rates), np.float64)
        mean_cpus = np.bincount(which, rates * demands.milli_cpus[singles]) / of_size
        mean_memory = np.bincount(which, rates * demands.host_memory[singles]) / of_size
        chance = fill(sizes, of_size, mean_cpus, mean_memory, _PATIENCE)
        worth = (1 - _CHANCE) * worth + _CHANCE * chance.share / chance.share[LEVELS]
        cpus, memory = chance.milli_cpus, chance.host_memory
    rests = np.rint(np.stack([worth * SHARE_UNITS, cpus, memory])).astype(np.int64)
    rests[:, LEVELS] = 0
    return rests


def _wholes(
    demands: Demands, accepting: Chosen, price: Mapping[int, float], widest: int, steps: tuple[int, int]
) -> Counts:
    """What whole devices with so many cores and so much host memory are worth: int64 [devices, cores, memory].

    Each by itself is worth one; less, in part, what would run out of cores or host memory if arrivals came at random
    and whoever fits went in; more for each gang that would fit.
    """
    cells = _STEPS + 1
    devices = np.arange(widest + 1)[:, None, None]
    comers: dict[tuple[int, int, int], float] = {}
    rows = accepting.nonzero()[0]
    wanted_of = demands.devices[rows]
    # Parts come by the device: as many cores as a device full of them takes.
    part = np.array([price[level] for level in demands.level[rows].tolist()])
    part[wanted_of != 1] = 1.0
    cores, memories = (
        np.ceil(amount[rows] / np.maximum(part, 0.05) / step - 0.4).astype(np.int64)
        for amount, step in zip((demands.milli_cpus, demands.host_memory), steps, strict=True)
    )
    counts = (part >= 0.05) & (cores < cells) & (memories < cells)
    columns = (wanted_of, cores, memories, demands.rates[rows] * part)
    for wanted, cpus, memory, rate in zip(*(column[counts].tolist() for column in columns), strict=True):
        comers[wanted, cpus, memory] = comers.get((wanted, cpus, memory), 0.0) + rate
    usable = _usable(comers, widest, cells)
    most = np.maximum(usable[:, -1:, -1:], 1e-9)
    worth = devices + _STRANDING * (usable / most - 1.0) * devices
    for (wanted, cpus, memory), rate in comers.items():
        if wanted > 1:
            worth[wanted:, cpus:, memory:] += _GANG * wanted * rate
    return np.rint(worth * SHARE_UNITS).astype(np.int64)


def _usable(comers: Mapping[tuple[int, int, int], float], widest: int, cells: int) -> Reals:
    """How many of the devices find takers before cores or host memory run out: float64 [devices, cores, memory].

    Arrivals come at random, whoever fits goes in, and the node is closed after each with the odds `_PATIENCE` to the
    rate of those that fit. What they leave behind is a sum over all that come: a convolution, which takes as long for
    many as for few.
    """
    from scipy.fft import irfft2, next_fast_len, rfft2

    size = (next_fast_len(2 * cells, real=True),) * 2
    rates: dict[int, Reals] = {}
    for (wanted, cpus, memory), rate in comers.items():
        if wanted <= widest:
            rates.setdefault(wanted, np.zeros((cells, cells)))[cpus, memory] += rate
    # By how many devices they want: the rate of those that fit beside so much, and the rates to be folded with.
    fitting = {wanted: table.cumsum(axis=0).cumsum(axis=1) for wanted, table in rates.items()}
    folding = {wanted: rfft2(table, size) for wanted, table in rates.items()}
    usable = np.zeros((widest + 1, cells, cells))
    folded = [rfft2(usable[0], size)]
    for free in range(1, widest + 1):
        coming = [wanted for wanted in rates if wanted <= free]
        gain, mass = np.zeros((cells, cells)), np.zeros((cells, cells))
        if coming:
            left = sum(folding[wanted] * folded[free - wanted] for wanted in coming)
            gain = irfft2(left, size)[:cells, :cells] + sum(wanted * fitting[wanted] for wanted in coming)
            mass = mass + sum(fitting[wanted] for wanted in coming)
        # A device may also be left idle.
        usable[free] = np.maximum(gain / (mass + _PATIENCE), usable[free - 1])
        if free < widest:
            folded.append(rfft2(usable[free], size))
    return usable
