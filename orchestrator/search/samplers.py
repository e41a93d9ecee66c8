"""Optuna's samplers by name. Importing this imports no Optuna: building one does, and `gp` imports torch with it."""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Config = Mapping[str, Any]


def _random(seed: int, config: Config) -> "BaseSampler":
    """Independent draws: what the others are measured against."""
    from optuna.samplers import RandomSampler

    del config
    return RandomSampler(seed=seed)


def _tpe(seed: int, config: Config) -> "BaseSampler":
    """Tree-structured Parzen estimator, all dimensions that are there together at once, with the constant liar for
    points that still run. Optuna calls its groups experimental."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.samplers import TPESampler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(
            seed=seed, n_startup_trials=config["startup"], multivariate=True, group=True, constant_liar=True
        )


def _gp(seed: int, config: Config) -> "BaseSampler":
    """Gaussian process with logEI; Optuna fits it with torch."""
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=config["startup"], warn_independent_sampling=False)


def _cmaes(seed: int, config: Config) -> "BaseSampler":
    """CMA-ES over the numbers; choices are drawn at random."""
    from optuna.samplers import CmaEsSampler

    del config
    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


SAMPLERS: Mapping[str, Callable[[int, Config], "BaseSampler"]] = {
    "random": _random,
    "tpe": _tpe,
    "gp": _gp,
    "cmaes": _cmaes,
}

REMEMBERS = frozenset({"cmaes"})
"""Those that leave notes of their own with the points that they drew, which asking them again brings back."""


def point_seed(seed: int, number: int, draw: int = 0) -> int:
    """The seed (32 bits) of the sampler that draws the point of that number, for the `draw`-th time.

    A sampler per point, and not one for all: then a point follows from what is known and its number alone, and whoever
    leads next draws the same.
    """
    return int.from_bytes(hashlib.sha256(f"{seed}/{number}/{draw}".encode()).digest()[:4], "big")
