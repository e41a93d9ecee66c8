"""From a point of a search to its variants: the same path that the variants of a grid take."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType, Quote, QuotedString

from orchestrator.config import ConfigError
from orchestrator.schema import Variant
from orchestrator.sweep.composing import Composer, hydra_session
from orchestrator.sweep.explaining import suggest
from orchestrator.sweep.overrides import combinations, parse_overrides, value_of
from orchestrator.sweep.space import Condition, Numbers, Point, Space, space_of
from orchestrator.sweep.variants import VariantMaker
from orchestrator.validation import Validator


class PointComposer:
    """Composes the points of one study, for as long as the study is searched.

    `overrides`: all that was given for the study. `sweep`: as it was used. `config`: the resolved base config.
    """

    def __init__(
        self,
        overrides: Sequence[str],
        sweep: Sequence[str],
        config: Mapping[str, Any],
        config_dir: Path | None = None,
    ) -> None:
        swept = parse_overrides(sweep)
        keys = {override.key_or_group for override in swept}
        fixed = [o for o in parse_overrides(overrides) if not o.is_sweep_override() and o.key_or_group not in keys]
        composer = Composer()
        with hydra_session(config_dir):
            self.space = space_of_config(swept, config, conditions_of(composer, swept, fixed))
        self._making = _Making(fixed, config, composer)
        self._config_dir = config_dir

    def variants(self, point: Point) -> tuple[Variant, ...]:
        """One per seed. Raises ConfigError for a point that can't run.

        May be called by several threads: one composes after the other.
        """
        with hydra_session(self._config_dir):
            return tuple(self._making.variant((*point, seed)) for seed in self.space.seeds)


class _Making:
    """What the variants of one study share, kept between them."""

    def __init__(self, fixed: Sequence[Override], config: Mapping[str, Any], composer: Composer) -> None:
        (texts,) = combinations(fixed)
        if path := config["task"]["path"]:
            # As it was meant where the study was submitted: relative paths lead elsewhere from another folder.
            texts.append(f"task.path={QuotedString(path, Quote.single).with_quotes()}")
        self._fixed = tuple({text.partition("=")[0]: text for text in texts}.values())
        self._composer = composer
        self._validator = Validator()
        self._maker = VariantMaker()

    def variant(self, shown: Point) -> Variant:
        """The variant of a point and a seed, within a `hydra_session`."""
        keys = {text.partition("=")[0] for text in shown}
        fixed = [text for text in self._fixed if text.partition("=")[0] not in keys]
        config = self._composer.config([*shown, *fixed])
        self._validator.check(config)
        return self._maker.make(config, shown)


def probed(
    composer: Composer,
    config: Mapping[str, Any],
    sweep: Sequence[Override],
    fixed: Sequence[Override],
    max_variants: int,
) -> tuple[Space, tuple[Variant, ...]]:
    """The space of a new study, and the variants that show that its ends and its choices can run. Within a
    `hydra_session`.

    Raises ConfigError for a search that is larger than `max_variants`, or that can't run.
    """
    Validator().check(config)
    search = config["search"]
    space = space_of_config(sweep, config, conditions_of(composer, sweep, fixed))
    if not 1 <= search["trials"] <= max_variants:
        raise ConfigError("search.trials", search["trials"], f"a study has 1 to {max_variants} trials")
    if search["trials"] % len(space.seeds):
        remedy = f"every point is run with {len(space.seeds)} seeds: use a multiple of that"
        raise ConfigError("search.trials", search["trials"], remedy)
    if search["name"] == "cmaes" and sum(isinstance(d, Numbers) and d.count != 1 for d in space.dimensions) < 2:
        raise ConfigError("search", "cmaes", "it needs two dimensions of numbers or more; use tpe or gp")
    points = space.probes()
    if len(points) > max_variants:
        raise ConfigError("sweep", f"{len(points)} choices", f"a study has at most {max_variants}")
    making = _Making(fixed, config, composer)
    return space, tuple(making.variant((*point, space.seeds[0])) for point in points)


def space_of_config(sweep: Sequence[Override], config: Mapping[str, Any], conditions: tuple[Condition, ...]) -> Space:
    """The space of a study by its resolved base config."""
    return space_of(sweep, config["search"]["seeds"], config["seed"], conditions)


def conditions_of(composer: Composer, sweep: Sequence[Override], fixed: Sequence[Override]) -> tuple[Condition, ...]:
    """Which swept keys are there under some options of a swept group only. Within a `hydra_session`.

    Raises ConfigError for one that is there under none of them.
    """
    groups = {o.get_key_element(): o for o in sweep if o.is_sweep_override() and composer.is_group(o.get_key_element())}
    (others,) = combinations(fixed)
    found: list[Condition] = []
    for override in sweep:
        key = override.get_key_element()
        group = key.partition(".")[0]
        if group == key or group not in groups or override.type != OverrideType.CHANGE:
            continue
        keys = keys_of_options(composer, groups[group], others)
        options = tuple(keys)
        having = tuple(option for option in options if key in keys[option])
        if not having:
            known = sorted({name.removeprefix(f"{group}.") for names in keys.values() for name in names})
            hint = suggest(key.removeprefix(f"{group}."), known)
            raise ConfigError(key, value_of(override), f"unknown key under {group}={' and '.join(options)}; {hint}")
        if having != options:
            found.append(Condition(key, group, having))
    return tuple(found)


def keys_of_options(composer: Composer, group: Override, others: Sequence[str] = ()) -> Mapping[str, frozenset[str]]:
    """The keys that there are under each option of a group that an override lists. Within a `hydra_session`."""
    name = group.get_key_element()
    return {option: composer.keys_under(name, [f"{name}={option}", *others]) for option in options_of(group)}


def options_of(group: Override) -> tuple[str, ...]:
    """The different options that an override lists."""
    if not group.is_sweep_override():
        return (group.get_value_element_as_str(),)
    return tuple(dict.fromkeys(group.sweep_string_iterator()))
