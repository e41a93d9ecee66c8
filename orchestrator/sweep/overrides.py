"""Overrides in Hydra's grammar, and the combinations that a sweep stands for."""

import math
from collections.abc import Sequence
from functools import cache

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.errors import HydraException

from orchestrator.config import ConfigError
from orchestrator.sweep.explaining import first_line


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Raises ConfigError for one that isn't written in Hydra's grammar."""
    parser = _parser()
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            remedy = "write key=value, for example optimizer.lr=1e-3 or 'seed=range(0,4)'"
            raise ConfigError("override", repr(text), f"{first_line(error)}; {remedy}") from error
    return parsed


@cache
def _parser() -> OverridesParser:
    """Making one takes longer than parsing an override."""
    return OverridesParser.create()


def count_variants(overrides: Sequence[Override]) -> int:
    """How many combinations there are, without making them. The last override of a key is the one that counts."""
    return math.prod({o.get_key_element(): _length(o) for o in overrides}.values())


def _length(override: Override) -> int:
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    if not isinstance(value, RangeSweep) or value.start is None or value.stop is None:
        return 1
    if value.step == 0 or not all(math.isfinite(number) for number in (value.start, value.stop, value.step)):
        raise ConfigError(str(override.key_or_group), value_of(override), "use a finite range with a step other than 0")
    return max(0, math.ceil((value.stop - value.start) / value.step))


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Every combination of the values of a sweep, as override strings, in the order of Hydra's own sweeper.

    Raises ConfigError for a sweep whose values can't be listed.
    """
    try:
        batches = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)
    except HydraException as error:
        swept = " ".join(text_of(o) for o in overrides if o.is_sweep_override())
        remedy = (
            "list the values: key=a,b or 'key=range(0,4)' (glob and interval have no list), or have a sampler draw: "
            "search=tpe"
        )
        raise ConfigError("sweep", swept, remedy) from error
    return [list(combination) for combination in batches[0]]


def text_of(override: Override) -> str:
    """As it was written."""
    return str(override.input_line)


def value_of(override: Override) -> str:
    """The value as it was written; Hydra itself can't print a sweep."""
    return text_of(override).partition("=")[2]
