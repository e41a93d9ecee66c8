"""From the overrides of one command line to the variants of a study.

`compose_study` reads the overrides, folds them into the study's own `sweep` (the command line has the last word, key by
key), and composes one variant per combination. It touches no device, store or tracker.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig, OmegaConf

from orchestrator.config import ConfigError
from orchestrator.schema import Variant
from orchestrator.sweep.composing import Composer, hydra_session, resolved
from orchestrator.sweep.overrides import combinations, count_variants, parse_overrides, text_of, value_of
from orchestrator.sweep.points import conditions_of, keys_of_options, options_of, probed
from orchestrator.sweep.space import Condition, Space
from orchestrator.sweep.variants import VariantMaker
from orchestrator.validation import Validator, validate

# More than this is a slip of the pen such as range(0,1e6).
MAX_VARIANTS = 100_000

# The parts of the config of the study's own choice: to sweep one, or a value in it, would make several studies of one.
_NOT_SWEPT = (
    "study",
    "cluster",
    "ordering",
    "packing",
    "fusion",
    "phases",
    "preemption",
    "defragmentation",
    "stopping",
    "search",
    "tenants",
    "access",
    "tracking",
    "cache",
    "debug",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedStudy:
    """`config` is the base config with `study.sweep` as it was used; `sweep` the sweep as override strings.

    A study that is searched (`search` other than `grid`) has a `space` and no variants yet: `probes` are those that
    showed that its ends and its choices can run. See `sweep.points`.

    Variants share, as objects, what their configs have in common: nobody may change a config in place.
    """

    name: str
    config: Mapping[str, Any]
    sweep: tuple[str, ...]
    variants: tuple[Variant, ...]
    space: Space | None = None
    probes: tuple[Variant, ...] = ()


def compose_study(
    overrides: Sequence[str], config_dir: Path | None = None, max_variants: int = MAX_VARIANTS
) -> ComposedStudy:
    """Compose and validate every variant. `config_dir`: an absolute folder instead of the packaged `conf`.

    Raises ConfigError naming the override, group or field that is wrong; a sweep of more than `max_variants` is refused
    before any is composed. May be called by several threads: one composes after the other.
    """
    with hydra_session(config_dir):
        composer = Composer()
        base, sweep, fixed = _read(overrides, composer)
        texts = tuple(text_of(o) for o in sweep)
        if base.search.name != "grid":
            config = resolved(base, overrides)
            space, probes = probed(composer, config, sweep, fixed, max_variants)
            return ComposedStudy(
                name=config["study"]["name"], config=config, sweep=texts, variants=(), space=space, probes=probes
            )
        count = count_variants([*sweep, *fixed])
        if not 1 <= count <= max_variants:
            raise ConfigError("sweep", " ".join(texts), f"{count} variants; a study has 1 to {max_variants}")
        config = resolved(base, overrides)
        return ComposedStudy(
            name=config["study"]["name"],
            config=config,
            sweep=texts,
            variants=_variants(composer, sweep, fixed),
        )


def _variants(composer: Composer, sweep: Sequence[Override], fixed: Sequence[Override]) -> tuple[Variant, ...]:
    swept_keys = {override.key_or_group for override in sweep}
    validator, maker = Validator(), VariantMaker()
    variants = []
    for combination in _there(combinations([*sweep, *fixed]), conditions_of(composer, sweep, fixed)):
        config = composer.config(combination)
        validator.check(config)
        shown = tuple(o for o in combination if o.split("=", 1)[0].lstrip("+") in swept_keys)
        variants.append(maker.make(config, shown))
    return tuple(variants)


def _there(combinations: list[list[str]], conditions: Sequence[Condition]) -> Iterable[list[str]]:
    """Each combination without the values that its options of groups have no place for, once."""
    if not conditions:
        return combinations
    of_key = {condition.key: condition for condition in conditions}
    found: dict[tuple[str, ...], list[str]] = {}
    for combination in combinations:
        chosen = dict(text.split("=", 1) for text in combination)
        left_out = {key for key, condition in of_key.items() if chosen[condition.group] not in condition.options}
        kept = [text for text in combination if text.split("=", 1)[0] not in left_out]
        found.setdefault(tuple(kept), kept)
    return found.values()


def compose_like(study_overrides: Sequence[str], variant: Variant, overrides: Sequence[str]) -> Variant:
    """The variant of a study that was given `study_overrides`, with further `overrides` that have the last word.

    Raises ConfigError, also for an override that sweeps or chooses what belongs to the study.
    """
    with hydra_session(None):
        composer = Composer()
        _, _, fixed = _read(study_overrides, composer)
        own = parse_overrides(overrides)
        for override in own:
            if override.is_sweep_override() or str(override.key_or_group).split(".")[0] in _NOT_SWEPT:
                remedy = "give one value of what a trial has for itself, such as optimizer.lr=1e-3"
                raise ConfigError(str(override.key_or_group), value_of(override), remedy)
        shown = {str(o.key_or_group): text_of(o) for o in [*parse_overrides(variant.overrides), *own]}
        chosen = {str(o.key_or_group): text_of(o) for o in fixed} | shown
        config = resolved(composer.compose(list(chosen.values())), overrides)
        validate(config)
        return VariantMaker().make(config, tuple(shown.values()))


def compose_base(overrides: Sequence[str], config_dir: Path | None = None) -> str:
    """The composed base config as YAML, interpolations unresolved: what `--cfg job` prints. Raises ConfigError."""
    with hydra_session(config_dir):
        base, _, _ = _read(overrides, Composer())
        return OmegaConf.to_yaml(base)


def _read(overrides: Sequence[str], composer: Composer) -> tuple[DictConfig, list[Override], list[Override]]:
    """The base config, the sweep (the study's, then the command line's own), and the other overrides. A value for what
    is there under some options of a swept group only is a part of the sweep."""
    given = parse_overrides(overrides)
    fixed = [o for o in given if not o.is_sweep_override()]
    for override in given:
        if override.is_sweep_override():
            _refuse_if_of_study(override, "one study has one: give a single value")
    base = _base(composer, given, fixed)
    by_key = {str(o.key_or_group): o for o in given}
    chosen = dict(by_key)
    sweep = []
    for key, values in dict(base.study.sweep).items():
        if key in by_key:
            sweep.append(by_key.pop(key))
        elif _has_place(composer, key, chosen.get(key.partition(".")[0])):
            sweep.append(parse_overrides([f"{key}={values}"])[0])
            _refuse_if_of_study(sweep[-1], f"it stands in the study's sweep: one study has one, set {key} itself")
    sweep += [o for o in by_key.values() if o.is_sweep_override()]
    fixed = [o for o in fixed if o.key_or_group not in {o.key_or_group for o in sweep}]
    below = _below(_swept(sweep), fixed)
    conditional = {c.key for c in conditions_of(composer, [*sweep, *below], fixed)} if below else frozenset()
    sweep += [o for o in below if o.key_or_group in conditional]
    _refuse_unread(composer, [*sweep, *fixed])
    swept = {o.key_or_group for o in sweep}
    OmegaConf.update(base, "study.sweep", {o.key_or_group: value_of(o) for o in sweep}, merge=False)
    return base, sweep, [o for o in fixed if o.key_or_group not in swept]


def _refuse_if_of_study(override: Override, remedy: str) -> None:
    """Raises ConfigError for a dimension that trials don't have for themselves: each would take the study's value."""
    if str(override.key_or_group).partition(".")[0] in _NOT_SWEPT:
        raise ConfigError(str(override.key_or_group), value_of(override), remedy)


def _refuse_unread(composer: Composer, overrides: Sequence[Override]) -> None:
    """Raises ConfigError for an algorithm or an optimizer that no chosen recipe takes: it would change nothing."""
    recipes = next((o for o in overrides if o.get_key_element() == "recipe"), None)
    if recipes is None:
        return
    options = options_of(recipes)
    for override in overrides:
        name = override.get_key_element().partition(".")[0]
        if name not in ("algorithm", "optimizer") or any(f"${{{name}" in text_of(o) for o in overrides):
            continue
        if not any(composer.refers("recipe", name, [f"recipe={option}"]) for option in options):
            key, recipe = override.get_key_element(), " and ".join(options)
            remedy = f"recipe={recipe} has its own in each stage: recipe.stages.STAGE.{key}"
            raise ConfigError(key, value_of(override), remedy)


def _has_place(composer: Composer, key: str, group: Override | None) -> bool:
    """Whether what a study sweeps is there under one of the options that the command line leaves of its group."""
    if group is None or not composer.is_group(group.get_key_element()) or group.get_key_element() == key:
        return True
    return any(key in keys for keys in keys_of_options(composer, group).values())


def _base(composer: Composer, given: Sequence[Override], fixed: Sequence[Override]) -> DictConfig:
    """The config that nothing swept is set in: where it has no place for what is given to some of the options of a
    swept group, that is left out of it."""
    try:
        return composer.compose([text_of(o) for o in fixed])
    except ConfigError:
        of_study = [o for o in fixed if str(o.key_or_group).partition(".")[0] == "study"]
        swept = _swept(o for o in given if o.is_sweep_override())
        swept |= set(composer.compose([text_of(o) for o in of_study]).study.sweep)
        below = _below(swept, fixed)
        if not below:
            raise
        return composer.compose([text_of(o) for o in fixed if o not in below])


def _swept(sweep: Iterable[Override]) -> set[str]:
    return {str(o.key_or_group) for o in sweep}


def _below(swept: Collection[str], overrides: Sequence[Override]) -> list[Override]:
    """Those that set a value in a part of the config of which other options are swept."""
    return [
        o
        for o in overrides
        if o.type == OverrideType.CHANGE and str(o.key_or_group).partition(".")[0] in set(swept) - {str(o.key_or_group)}
    ]
