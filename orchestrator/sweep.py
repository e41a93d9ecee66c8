"""Hydra's own override grammar -> validated variants.

`compose_study` reads the overrides of one command line, folds them into the study's own `sweep` (the command line has
the last word, key by key), and composes one variant per combination. It touches no device, store or tracker.
"""

import copy
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config import ConfigError, register_schemas, stages_of, validate
from orchestrator.keys import stage_key
from orchestrator.schema import Stage, Variant

# Composing takes milliseconds a variant; more than this is a slip of the pen such as range(0,1e6).
MAX_VARIANTS = 10_000

# The group names of the study's own choice: sweeping them would make several studies of one.
_NOT_SWEPT = ("study", "cluster", "ordering", "packing", "stopping", "tracking", "debug")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedStudy:
    """`config` is the base config with `study.sweep` as it was used; `sweep` the sweep as override strings."""

    name: str
    config: Mapping[str, Any]
    sweep: tuple[str, ...]
    variants: tuple[Variant, ...]


def compose_study(overrides: Sequence[str], config_dir: Path | None = None) -> ComposedStudy:
    """Compose and validate every variant. `config_dir`: an absolute folder instead of the packaged `conf`.

    Raises ConfigError naming the override, group or field that is wrong.
    """
    with _hydra(config_dir):
        composer = _Composer()
        base, sweep, fixed = _read(overrides, composer)
        swept_keys = {override.key_or_group for override in sweep}
        combinations = _combinations([*sweep, *fixed])
        if not 1 <= len(combinations) <= MAX_VARIANTS:
            remedy = f"{len(combinations)} variants; a study has 1 to {MAX_VARIANTS}"
            raise ConfigError("sweep", " ".join(_text(o) for o in sweep), remedy)
        variants = []
        for combination in combinations:
            config = _plain(composer.compose(combination), combination)
            validate(config)
            shown = tuple(o for o in combination if o.split("=", 1)[0].lstrip("+") in swept_keys)
            variants.append(make_variant(config, shown))
        config = _plain(base, overrides)
        return ComposedStudy(
            name=config["study"]["name"],
            config=config,
            sweep=tuple(_text(o) for o in sweep),
            variants=tuple(variants),
        )


def compose_base(overrides: Sequence[str], config_dir: Path | None = None) -> str:
    """The composed base config as YAML, interpolations unresolved: what `--cfg job` prints. Raises ConfigError."""
    with _hydra(config_dir):
        base, _, _ = _read(overrides, _Composer())
        return OmegaConf.to_yaml(base)


def make_variant(config: Mapping[str, Any], overrides: tuple[str, ...]) -> Variant:
    """Stages with chained keys from one resolved, validated config."""
    stages: list[Stage] = []
    parent_key = ""
    for name, recipe_stage in stages_of(config):
        stage_config = {
            "algorithm": dict(recipe_stage["algorithm"]),
            "optimizer": dict(recipe_stage["optimizer"]),
            "seed": recipe_stage["seed"],
            **{part: config[part] for part in ("model", "task", "deepspeed", "evaluation")},
        }
        key = stage_key(stage_config, parent_key)
        stages.append(
            Stage(
                name=name,
                key=key,
                parent_key=parent_key,
                entrypoint=recipe_stage["algorithm"]["entrypoint"],
                config=stage_config,
                budget_steps=recipe_stage["algorithm"]["max_steps"],
            )
        )
        parent_key = key
    return Variant(
        key=parent_key,
        algorithm=config["algorithm"]["name"],
        seed=config["seed"],
        overrides=overrides,
        config=config,
        stages=tuple(stages),
    )


class _Composer:
    """Composes once per choice of groups; a variant that differs in values only is a copy with the values set.

    Hydra's composition takes some 100 ms at this number of groups, setting values 1 ms.
    """

    def __init__(self) -> None:
        self._by_groups: dict[tuple[str, ...], DictConfig] = {}
        self._groups: dict[str, bool] = {}

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        choices = tuple(o for o in overrides if self._is_group(o))
        if choices not in self._by_groups:
            self._by_groups[choices] = _compose(choices)
        config = copy.deepcopy(self._by_groups[choices])
        try:
            ConfigLoaderImpl._apply_overrides_to_config(_parse([o for o in overrides if o not in choices]), config)
        except (HydraException, OmegaConfBaseException) as error:
            raise _explain(error, overrides) from error
        return config

    def _is_group(self, override: str) -> bool:
        """Whether an override chooses a group's option rather than setting a value."""
        key = override.lstrip("+~").partition("=")[0].partition("@")[0]
        if key not in self._groups:
            self._groups[key] = bool(GlobalHydra.instance().config_loader().get_group_options(key))
        return self._groups[key]


@contextmanager
def _hydra(config_dir: Path | None) -> Iterator[None]:
    register_schemas()
    GlobalHydra.instance().clear()
    context = (
        initialize_config_module(config_module="conf", version_base="1.3")
        if config_dir is None
        else initialize_config_dir(config_dir=str(config_dir), version_base="1.3")
    )
    with context:
        yield


def _read(overrides: Sequence[str], composer: _Composer) -> tuple[DictConfig, list[Override], list[Override]]:
    """The base config, the sweep (the study's, then the command line's own), and the other overrides."""
    given = _parse(overrides)
    fixed = [o for o in given if not o.is_sweep_override()]
    for override in given:
        if override.is_sweep_override() and override.key_or_group in _NOT_SWEPT:
            raise ConfigError(str(override.key_or_group), _value(override), "one study has one: give a single value")
    base = composer.compose([_text(o) for o in fixed])
    by_key = {str(o.key_or_group): o for o in given}
    sweep = []
    for key, values in dict(base.study.sweep).items():
        sweep.append(by_key.pop(key) if key in by_key else _parse([f"{key}={values}"])[0])
    sweep += [o for o in by_key.values() if o.is_sweep_override()]
    swept = {o.key_or_group for o in sweep}
    OmegaConf.update(base, "study.sweep", {o.key_or_group: _value(o) for o in sweep}, merge=False)
    return base, sweep, [o for o in fixed if o.key_or_group not in swept]


def _parse(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed: list[Override] = []
    for text in overrides:
        try:
            parsed.append(parser.parse_override(text))
        except HydraException as error:
            remedy = "write key=value, for example optimizer.lr=1e-3 or 'seed=range(0,4)'"
            raise ConfigError("override", repr(text), f"{_first_line(error)}; {remedy}") from error
    return parsed


def _combinations(overrides: Sequence[Override]) -> list[list[str]]:
    try:
        batches = BasicSweeper.split_arguments(list(overrides), max_batch_size=None)
    except HydraException as error:
        swept = " ".join(_text(o) for o in overrides if o.is_sweep_override())
        remedy = "list the values: key=a,b or 'key=range(0,4)' (glob and interval have no list)"
        raise ConfigError("sweep", swept, remedy) from error
    return [list(combination) for combination in batches[0]]


def _compose(overrides: Sequence[str]) -> DictConfig:
    try:
        return compose(config_name="config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise _explain(error, overrides) from error


def _plain(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Resolved plain data; a mandatory value (`???`) that nobody gave is a ConfigError."""
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(missing[0], "???", f"give it a value, for example {missing[0]}=...")
        plain: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            config, resolve=True, enum_to_str=True
        )
    except OmegaConfBaseException as error:
        raise _explain(error, overrides) from error
    if plain["task"]["path"]:
        # Workers run in folders of their own.
        plain["task"]["path"] = str(Path(plain["task"]["path"]).absolute())
    return plain


def _text(override: Override) -> str:
    return str(override.input_line)


def _value(override: Override) -> str:
    """The value as it was written; Hydra itself can't print a sweep."""
    return _text(override).partition("=")[2]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0].strip()


def _explain(error: Exception, overrides: Sequence[str]) -> ConfigError:
    """Hydra's and OmegaConf's messages span lines and name internals; keep the field, the value and what would do."""
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines() if line.strip()]
    text = " ".join(lines)
    if match := re.search(r"Could not find '([^']+)'", text):
        group, _, choice = match[1].rpartition("/")
        options = re.search(r"vailable options in '[^']*':(.*?)Config search path", text)
        names = [name for name in (options[1].split() if options else []) if not name.startswith("base_")]
        return ConfigError(group or "group", choice, _suggest(choice, names))
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' (?:is )?not in", text):
        key = match[1] or match[2]
        given = next(
            (o for o in overrides if o.lstrip("+~").split("=", 1)[0].split(".")[-1] == key.split(".")[-1]), key
        )
        name, _, value = given.partition("=")
        inner = re.search(r"Key '([^']+)' (?:is )?not in '([^']+)'", text)
        known = _fields_of(inner[2]) if inner else []
        hint = _elsewhere(name) or _suggest(inner[1] if inner else key, known)
        return ConfigError(name, value, f"unknown key; {hint}")
    full_key = re.search(r"full_key: (\S+)", text)
    name = full_key[1] if full_key else "config"
    value = next((o.split("=", 1)[1] for o in overrides if o.lstrip("+").startswith(f"{name}=")), "?")
    if "not Optional" in text:
        return ConfigError(name, value, "it needs a value; leave the override out to keep its default")
    told = next((line for line in lines if line.startswith(("Value ", "Invalid value", "Cannot convert"))), lines[0])
    return ConfigError(name, value, told)


def _fields_of(class_name: str) -> list[str]:
    from orchestrator import config

    schema = getattr(config, class_name, None)
    return sorted(getattr(schema, "__dataclass_fields__", {}))


def _elsewhere(name: str) -> str:
    """What to write instead of an override that Hydra's grammar or an interpolation keeps from where it looks right."""
    if match := re.match(r"recipe\.stages\.\w+\.((?:algorithm|optimizer)\..+)", name):
        return f"a stage that takes these from their group is set there: {match[1]}=..."
    if name.startswith(("task.options.", "deepspeed.extra.")):
        return f"a key of your own is added with a plus: +{name}=..."
    return ""


def _suggest(given: str, options: Sequence[str]) -> str:
    if not options:
        return "`orchestrator run --cfg job` prints every key there is"
    close = difflib.get_close_matches(given, options, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}there is: {', '.join(options)}"
