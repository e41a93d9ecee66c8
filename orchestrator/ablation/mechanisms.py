"""The mechanisms that make throughput, and the overrides that switch each of them off.

One more: an entry in `MECHANISMS`. A mechanism that a study doesn't use has nothing to be switched off.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.sweep import ComposedStudy
from orchestrator.sweep.trunks import share_trunks

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Mechanism:
    """`used` says by its config whether a composed study uses it, and `among` by its variants where that takes more.
    `off` are the overrides that it runs without it with."""

    what: str
    used: Callable[[Config], bool]
    off: tuple[str, ...]
    among: Callable[[ComposedStudy], bool] = lambda study: True


def _fuses(config: Config) -> bool:
    return config["fusion"]["name"] != "off" and bool(config["cluster"]["fuses"])


def _trunks_may_be_cut(config: Config) -> bool:
    return bool(config["study"]["share_stages"] and config["study"]["share_trunks"]) and (
        config["stopping"]["name"] == "never"
    )


def _have_a_trunk(study: ComposedStudy) -> bool:
    return share_trunks(study.variants) != study.variants


MECHANISMS: Mapping[str, Mechanism] = {
    "fusion": Mechanism(
        "variants that differ in numbers only train as one program",
        _fuses,
        ("fusion=off",),
    ),
    "refill": Mechanism(
        "seats that members of a stack have left go to others at once",
        lambda config: _fuses(config) and bool(config["fusion"]["refill"]),
        ("fusion.refill=false",),
    ),
    "shared_stages": Mechanism(
        "equal prefixes run once",
        lambda config: bool(config["study"]["share_stages"]) and len(config["recipe"]["stages"]) > 1,
        ("study.share_stages=false",),
    ),
    "trunks": Mechanism(
        "runs that differ in length or in their decay train once what they begin with",
        _trunks_may_be_cut,
        ("study.share_trunks=false",),
        _have_a_trunk,
    ),
    "early_stopping": Mechanism(
        "trials that won't win are stopped on evidence",
        lambda config: config["stopping"]["name"] != "never",
        ("stopping=never",),
    ),
    "packing": Mechanism(
        "several programs share a device",
        lambda config: config["cluster"]["share_per_trial"] < 1.0,
        ("cluster.share_per_trial=1.0",),
    ),
    "phases": Mechanism(
        "programs that share a device take turns: one decodes while the other learns",
        lambda config: config["phases"]["name"] != "off" and config["cluster"]["share_per_trial"] < 1.0,
        ("phases=off",),
    ),
}


def used_by(study: ComposedStudy) -> tuple[str, ...]:
    """The mechanisms that a composed study uses, by name. Raises OSError if a data file is gone."""
    return tuple(name for name, one in MECHANISMS.items() if one.used(study.config) and one.among(study))


def without(overrides: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """A study's overrides with some mechanisms switched off. What was said of a group that is replaced goes with it:
    the other one of that group may lack the field."""
    off = [text for name in names for text in MECHANISMS[name].off]
    groups = {_key(text) for text in off if "." not in _key(text)}
    said = [text for text in (*overrides, *off) if _key(text).split(".")[0] not in groups or _key(text) in groups]
    return tuple({_key(text): text for text in said}.values())


def _key(override: str) -> str:
    return override.split("=", 1)[0].lstrip("+~")
