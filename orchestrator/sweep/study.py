"""From the overrides of one command line to the variants of a study.

`compose_study` reads the overrides, folds them into the study's own `sweep` (the command line has the last word, key by
key), and composes one variant per combination. It touches no device, store or tracker.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from orchestrator.config import ConfigError
from orchestrator.schema import Variant
from orchestrator.sweep.composing import Composer, hydra_session, resolved
from orchestrator.sweep.overrides import combinations, count_variants, parse_overrides, text_of, value_of
from orchestrator.sweep.points import probed
from orchestrator.sweep.space import Space
from orchestrator.sweep.variants import VariantMaker
from orchestrator.validation import Validator, validate

# More than this is a slip of the pen such as range(0,1e6).
MAX_VARIANTS = 100_000

# The group names of the study's own choice: sweeping them would make several studies of one.
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
    for combination in combinations([*sweep, *fixed]):
        config = composer.config(combination)
        validator.check(config)
        shown = tuple(o for o in combination if o.split("=", 1)[0].lstrip("+") in swept_keys)
        variants.append(maker.make(config, shown))
    return tuple(variants)


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
    """The base config, the sweep (the study's, then the command line's own), and the other overrides."""
    given = parse_overrides(overrides)
    fixed = [o for o in given if not o.is_sweep_override()]
    for override in given:
        if override.is_sweep_override() and override.key_or_group in _NOT_SWEPT:
            raise ConfigError(str(override.key_or_group), value_of(override), "one study has one: give a single value")
    base = composer.compose([text_of(o) for o in fixed])
    by_key = {str(o.key_or_group): o for o in given}
    sweep = []
    for key, values in dict(base.study.sweep).items():
        sweep.append(by_key.pop(key) if key in by_key else parse_overrides([f"{key}={values}"])[0])
    sweep += [o for o in by_key.values() if o.is_sweep_override()]
    swept = {o.key_or_group for o in sweep}
    OmegaConf.update(base, "study.sweep", {o.key_or_group: value_of(o) for o in sweep}, merge=False)
    return base, sweep, [o for o in fixed if o.key_or_group not in swept]
