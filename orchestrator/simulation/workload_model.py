"""What a synthetic post-training workload is made of: its knobs, and the expectations that set its arrival rate.

`cluster/traces/README.md` says which distribution stands for what, and why.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import NormalDist

from orchestrator.config import ConfigError

DAY_S, WEEK_S = 86_400.0, 7 * 86_400.0
# A run that is cut short has come to this part of its length, drawn evenly.
CUT_FROM, CUT_TO = 0.05, 0.75
RECIPES: Mapping[str, tuple[str, ...]] = {"sft": ("sft",), "grpo": ("grpo",), "sft_grpo": ("sft", "grpo")}


@dataclass
class SyntheticConfig:
    """The knobs. Probabilities are parts of one; lists are `VALUE:WEIGHT`, or `VALUE` for a weight of 1.

    The cluster: `nodes` machines of `devices_per_node` devices each, split over `models` by weight; `load` is the
    device-seconds that are asked for per device-second there is, on the mean of a weekday.

    Arrivals: `diurnal` is how far the rate swings around its mean over a day (0: not at all, 1: down to nothing),
    highest at `peak_hour`; `weekend` is Saturday's and Sunday's rate relative to a weekday's. Time 0 is a Monday, 0:00.

    Who: `tenants` with shares that fall as 1 / rank ** `tenant_skew`; `urgent` is the part of the studies that have
    priority 10, the others have 0.

    Sweeps: a study has `least_trials` to `most_trials` trials, the logarithm of the number drawn evenly; `recipes` are
    `sft`, `grpo`, and `sft_grpo`, whose trials share one SFT stage of `warmup` times the study's typical length.

    Demands, one per study: `fractional` of the studies take one of `shares` of a device, `gangs_part` one of `gangs`
    whole devices, the others one; `pinned` of them will have one model only.

    Durations: a study's typical one is lognormal around `median_s` with `sigma`, or with probability `tail` Pareto with
    `tail_exponent` from the lognormal's 95th percentile on; `longest_s` cuts both. Its trials spread around it by a
    lognormal of `spread`, and `cut_short` of them end early. `rollout` is the part of an RL stage spent in rollouts.
    """

    trials: int = 1000
    seed: int = 0
    nodes: int = 8
    devices_per_node: int = 8
    models: list[str] = field(default_factory=lambda: ["H100:3", "A100:1"])
    memory_gib: float = 80.0
    cpus_per_node: float = 128.0
    host_memory_gib: float = 1024.0
    load: float = 0.9
    diurnal: float = 0.6
    peak_hour: float = 15.0
    weekend: float = 0.5
    tenants: int = 4
    tenant_skew: float = 1.0
    urgent: float = 0.1
    least_trials: int = 4
    most_trials: int = 200
    recipes: list[str] = field(default_factory=lambda: ["sft:0.4", "sft_grpo:0.4", "grpo:0.2"])
    warmup: float = 0.5
    fractional: float = 0.35
    shares: list[str] = field(default_factory=lambda: ["0.125:0.2", "0.25:0.4", "0.5:0.4"])
    gangs_part: float = 0.2
    gangs: list[str] = field(default_factory=lambda: ["2:0.4", "4:0.35", "8:0.25"])
    pinned: float = 0.15
    median_s: float = 1200.0
    sigma: float = 1.6
    tail: float = 0.05
    tail_exponent: float = 1.5
    longest_s: float = 259_200.0
    spread: float = 0.15
    cut_short: float = 0.25
    rollout: float = 0.7


_COUNTS = ("trials", "nodes", "devices_per_node", "tenants", "least_trials")
_PARTS = ("diurnal", "urgent", "fractional", "gangs_part", "pinned", "tail", "cut_short", "rollout")
_POSITIVE = ("memory_gib", "load", "median_s", "longest_s", "tail_exponent")
_NOT_NEGATIVE = ("cpus_per_node", "host_memory_gib", "weekend", "tenant_skew", "warmup", "sigma", "spread", "seed")
_WEIGHTS = ("models", "recipes", "shares", "gangs")
_WEIGHTS_REMEDY = "list values with weights of 0 or more, such as [a:1,b:3]"


def check_synthetic(config: SyntheticConfig) -> None:
    """Raises ConfigError for the first knob that is out of range."""
    for name in _COUNTS:
        _require(config, name, getattr(config, name) >= 1, "use a whole number of at least 1")
    for name in _PARTS:
        _require(config, name, 0.0 <= getattr(config, name) <= 1.0, "use a part from 0 to 1")
    for name in _POSITIVE:
        _require(config, name, 0.0 < getattr(config, name) < math.inf, "use a positive number")
    for name in _NOT_NEGATIVE:
        _require(config, name, 0.0 <= getattr(config, name) < math.inf, "use 0 or more")
    for name in _WEIGHTS:
        weights = weights_of(config, name)
        usable = bool(weights) and min(weights.values()) >= 0.0 and 0.0 < sum(weights.values()) < math.inf
        _require(config, name, usable, _WEIGHTS_REMEDY)
    unknown = next((name for name in weights_of(config, "recipes") if name not in RECIPES), None)
    _require(config, "recipes", unknown is None, f"there is: {', '.join(RECIPES)}")
    shares = weights_of(config, "shares")
    _require(config, "shares", all(0.0 < _number(share) < 1.0 for share in shares), "use shares above 0 and below 1")
    largest = config.nodes * config.devices_per_node
    gangs_fit = all(devices.isdecimal() and 1 <= int(devices) <= largest for devices in weights_of(config, "gangs"))
    _require(config, "gangs", gangs_fit, f"use 1 to {largest} devices, all that trace.nodes have")
    most = config.most_trials >= config.least_trials
    _require(config, "most_trials", most, f"use at least trace.least_trials={config.least_trials}")
    both = config.fractional + config.gangs_part <= 1.0
    _require(config, "gangs_part", both, f"use at most {1.0 - config.fractional:g}, what trace.fractional leaves")


def _require(config: SyntheticConfig, name: str, holds: bool, remedy: str) -> None:
    if not holds:
        raise ConfigError(f"trace.{name}", getattr(config, name), remedy)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def weights_of(config: SyntheticConfig, name: str) -> dict[str, float]:
    """The weights of one of the lists, by value and in its order. Raises ConfigError for one that is no number."""
    weights: dict[str, float] = {}
    for entry in getattr(config, name):
        value, colon, weight = str(entry).rpartition(":")
        number = _number(weight) if colon else 1.0
        _require(config, name, not math.isnan(number), _WEIGHTS_REMEDY)
        weights[value if colon else weight] = number
    return weights


def probabilities(weights: Iterable[float]) -> list[float]:
    """Weights as probabilities."""
    weights = tuple(weights)
    return [weight / sum(weights) for weight in weights]


def tail_from_s(config: SyntheticConfig) -> float:
    """Where the Pareto tail begins: the 95th percentile of the lognormal body, or the longest [s]."""
    return min(config.longest_s, config.median_s * math.exp(NormalDist().inv_cdf(0.95) * config.sigma))


def mean_duration_s(config: SyntheticConfig) -> float:
    """The mean of a study's typical duration, both parts cut at `longest_s` [s].

    E[min(X, c)] of a lognormal is exp(m + s^2/2) F((ln c - m - s^2) / s) + c (1 - F((ln c - m) / s)) with F the normal
    distribution function; of a Pareto from b with exponent a it is (a b - b^a c^(1-a)) / (a - 1), for a = 1
    b (1 + ln(c / b)).
    """
    cut, mu, sigma = config.longest_s, math.log(config.median_s), config.sigma
    if sigma == 0.0:
        body = min(config.median_s, cut)
    else:
        below = NormalDist().cdf((math.log(cut) - mu - sigma**2) / sigma)
        above = 1.0 - NormalDist().cdf((math.log(cut) - mu) / sigma)
        body = math.exp(mu + sigma**2 / 2) * below + cut * above
    start, exponent = tail_from_s(config), config.tail_exponent
    if exponent == 1.0:
        tail = start * (1.0 + math.log(cut / start))
    else:
        tail = (exponent * start - start**exponent * cut ** (1.0 - exponent)) / (exponent - 1.0)
    return (1.0 - config.tail) * body + config.tail * tail


def mean_devices(config: SyntheticConfig) -> float:
    """Devices times share that a study's stages hold, on average."""
    share, gang = (_mean_value(weights_of(config, name)) for name in ("shares", "gangs"))
    single = 1.0 - config.fractional - config.gangs_part
    return config.fractional * share + config.gangs_part * gang + single


def _mean_value(weights: Mapping[str, float]) -> float:
    chances = probabilities(weights.values())
    return sum(float(value) * chance for value, chance in zip(weights, chances, strict=True))


def mean_trials(config: SyntheticConfig) -> float:
    """Trials of a study, on average: k has the probability ln((k + 1) / k) / ln((most + 1) / least)."""
    least, most = config.least_trials, config.most_trials
    whole = math.log((most + 1) / least)
    return sum(k * math.log((k + 1) / k) for k in range(least, most + 1)) / whole


def mean_device_seconds(config: SyntheticConfig) -> float:
    """What a study asks for in all, on average [device-seconds]: its parts are drawn independently of each other."""
    kept = 1.0 - config.cut_short * (1.0 - (CUT_FROM + CUT_TO) / 2)
    recipes = weights_of(config, "recipes")
    warmed = recipes.get("sft_grpo", 0.0) / sum(recipes.values())
    runs = mean_trials(config) * kept + warmed * config.warmup
    return mean_devices(config) * mean_duration_s(config) * runs


def studies_per_s(config: SyntheticConfig) -> float:
    """The arrival rate that makes the load, on the mean of a weekday [1/s]."""
    return config.load * config.nodes * config.devices_per_node / mean_device_seconds(config)


def rhythm(config: SyntheticConfig, at: float) -> float:
    """The arrival rate at a time relative to its mean over a weekday."""
    hour, day = (at % DAY_S) / 3600.0, int(at % WEEK_S // DAY_S)
    of_day = 1.0 + config.diurnal * math.cos(2 * math.pi * (hour - config.peak_hour) / 24.0)
    return of_day * (config.weekend if day >= 5 else 1.0)


def highest_rhythm(config: SyntheticConfig) -> float:
    """The most that `rhythm` can be."""
    return (1.0 + config.diurnal) * max(1.0, config.weekend)
