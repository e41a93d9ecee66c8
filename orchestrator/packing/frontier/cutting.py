"""What the rest of a device is worth, by how whole devices can be cut into the sizes that come.

A device has `LEVELS` levels. The cutting stock problem in its arc-flow form (Valério de Carvalho, "Exact solution of
bin-packing problems using column generation and branch-and-bound", 1999) asks how many arrivals a device serves at best
when sizes come at given rates and none is refused. Its dual gives each size a price, in whole devices: what an arrival
of it costs at best. A rest is worth the most that can be sold out of it at these prices.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LEVELS = 100

Levels = npt.NDArray[np.int64]
Reals = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutting:
    """worth: of the levels 0 to LEVELS, in whole devices. price: of each size, in whole devices."""

    worth: Reals
    price: Reals


def cutting(sizes: Levels, rates: Reals) -> Cutting:
    """The duals for sizes (levels, distinct, from 1 to LEVELS) that come at these rates (above 0)."""
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    count = len(sizes)
    # An arc cuts a size off a rest: one for each size and each level that is high enough.
    size = np.concatenate([np.full(LEVELS + 1 - height, number) for number, height in enumerate(sizes)])
    start = np.concatenate([np.arange(height, LEVELS + 1) for height in sizes])
    end = start - sizes[size]
    arcs = np.arange(len(size))
    left = end > 0
    # Rows: of no level may more be cut than there is, then each size is cut as often as it comes in the time that is
    # the last column and is to be as long as can be.
    rows = np.concatenate([start - 1, end[left] - 1, LEVELS + size, LEVELS + np.arange(count)])
    columns = np.concatenate([arcs, arcs[left], arcs, np.full(count, len(arcs))])
    values = np.concatenate([np.ones(len(arcs)), -np.ones(left.sum()), -np.ones(len(arcs)), rates])
    matrix = coo_array((values, (rows, columns)), shape=(LEVELS + count, len(arcs) + 1)).tocsr()
    limits = np.zeros(LEVELS + count)
    limits[LEVELS - 1] = 1.0
    objective = np.zeros(len(arcs) + 1)
    objective[-1] = -1.0
    solved = linprog(objective, A_ub=matrix, b_ub=limits, method="highs-ds")
    duals = -solved.ineqlin.marginals
    price = duals[LEVELS:] / duals[LEVELS - 1]
    return Cutting(worth=_knapsack(sizes, price), price=price)


def _knapsack(sizes: Levels, price: Reals) -> Reals:
    """What can be sold at most out of each level. The duals of levels that no cutting reaches would say more."""
    worth = np.zeros(LEVELS + 1)
    for level in range(1, LEVELS + 1):
        fitting = sizes <= level
        sold = (price[fitting] + worth[level - sizes[fitting]]).max(initial=0.0)
        worth[level] = max(worth[level - 1], sold)
    return worth


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """What a rest of each level will hold: of the device, in whole devices, and of its node; float64 [LEVELS + 1]."""

    share: Reals
    milli_cpus: Reals
    host_memory: Reals


def fill(sizes: Levels, rates: Reals, milli_cpus: Reals, host_memory: Reals, patience: float) -> Fill:
    """Whatever comes first and fits goes in, until less than `patience` of all arrivals would fit, more or less: after
    each arrival the rest is closed with the odds `patience` to the rate of those that fit."""
    share, cpus, memory = np.zeros(LEVELS + 1), np.zeros(LEVELS + 1), np.zeros(LEVELS + 1)
    order = np.argsort(sizes, kind="stable")
    sizes, rates, milli_cpus, host_memory = sizes[order], rates[order], milli_cpus[order], host_memory[order]
    for level in range(1, LEVELS + 1):
        fitting = int(np.searchsorted(sizes, level, side="right"))
        if fitting:
            weights = rates[:fitting] / (rates[:fitting].sum() + patience)
            rest = level - sizes[:fitting]
            share[level] = weights @ (sizes[:fitting] / LEVELS + share[rest])
            cpus[level] = weights @ (milli_cpus[:fitting] + cpus[rest])
            memory[level] = weights @ (host_memory[:fitting] + memory[rest])
    return Fill(share=share, milli_cpus=cpus, host_memory=memory)
