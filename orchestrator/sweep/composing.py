"""One combination of overrides -> one resolved config.

Hydra composes once per choice of groups, which takes some 100 ms at this number of groups. A variant that differs in
values only is a copy with the values set, by `Template` where it can tell what they change, and else by Hydra.
"""

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config import ConfigError, register_schemas
from orchestrator.sweep.explaining import explain
from orchestrator.sweep.overrides import parse_overrides
from orchestrator.sweep.template import Template

# Hydra keeps what it composes with in globals of the process.
_composing = threading.Lock()


@contextmanager
def hydra_session(config_dir: Path | None) -> Iterator[None]:
    """Hydra set up on the packaged `conf`, or on an absolute folder, for one thread at a time."""
    with _composing:
        register_schemas()
        GlobalHydra.instance().clear()
        context = (
            initialize_config_module(config_module="conf", version_base="1.3")
            if config_dir is None
            else initialize_config_dir(config_dir=str(config_dir), version_base="1.3")
        )
        with context:
            yield


class Composer:
    """Composes within one `hydra_session`, from the root `config_name`."""

    def __init__(self, config_name: str = "config") -> None:
        self._config_name = config_name
        self._by_groups: dict[tuple[str, ...], DictConfig] = {}
        self._templates: dict[tuple[str, ...], Template] = {}
        self._groups: dict[str, bool] = {}

    def config(self, overrides: Sequence[str]) -> Mapping[str, Any]:
        """The resolved config of one combination. It shares parts with others that this returned: all are read-only.

        Raises ConfigError.
        """
        choices, values = self._split(overrides)
        if choices not in self._templates:
            composed = self._composed(choices)
            self._templates[choices] = Template(composed, _resolved_if_complete(composed, choices))
        config = self._templates[choices].config(values)
        return resolved(self.compose(overrides), overrides) if config is None else config

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The config of one combination by Hydra itself, interpolations unresolved. Raises ConfigError."""
        choices, values = self._split(overrides)
        config = copy.deepcopy(self._composed(choices))
        try:
            ConfigLoaderImpl._apply_overrides_to_config(parse_overrides(values), config)
        except (HydraException, OmegaConfBaseException) as error:
            raise explain(error, overrides) from error
        return config

    def keys_under(self, name: str, overrides: Sequence[str]) -> frozenset[str]:
        """The dotted keys that the part `name` of the config has, down to every depth. Raises ConfigError."""
        choices, _ = self._split(overrides)
        raw = OmegaConf.to_container(self._composed(choices), resolve=False)
        assert isinstance(raw, dict)
        return frozenset(_dotted(raw[name], name))

    def refers(self, part: str, name: str, overrides: Sequence[str]) -> bool:
        """Whether something in the part `part` of the config is taken from its part `name`. Raises ConfigError."""
        choices, _ = self._split(overrides)
        raw = OmegaConf.to_container(self._composed(choices), resolve=False)
        assert isinstance(raw, dict)
        return f"${{{name}" in str(raw[part])

    def _composed(self, choices: tuple[str, ...]) -> DictConfig:
        if choices not in self._by_groups:
            try:
                self._by_groups[choices] = compose(config_name=self._config_name, overrides=list(choices))
            except (HydraException, OmegaConfBaseException, ValueError) as error:
                raise explain(error, choices) from error
        return self._by_groups[choices]

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
        """The overrides that choose a group's option, and those that set values."""
        choices: list[str] = []
        values: list[str] = []
        for text in overrides:
            (choices if self.is_group(text.lstrip("+~").partition("=")[0].partition("@")[0]) else values).append(text)
        return tuple(choices), values

    def is_group(self, key: str) -> bool:
        """Whether the key chooses an option of a group."""
        if key not in self._groups:
            # Groups lie in folders; asking takes some 20 ms.
            self._groups[key] = "." not in key and bool(GlobalHydra.instance().config_loader().get_group_options(key))
        return self._groups[key]


def resolved(config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Resolved plain data; a mandatory value (`???`) that nobody gave is a ConfigError."""
    try:
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise ConfigError(missing[0], "???", f"give it a value, for example {missing[0]}=...")
        plain: dict[str, Any] = OmegaConf.to_container(  # type: ignore[assignment]
            config, resolve=True, enum_to_str=True
        )
    except OmegaConfBaseException as error:
        raise explain(error, overrides) from error
    if "task" in plain and plain["task"]["path"]:
        # Workers run in folders of their own.
        plain["task"]["path"] = str(Path(plain["task"]["path"]).absolute())
    return plain


def _dotted(part: Any, name: str) -> Iterator[str]:
    if isinstance(part, dict):
        for key, value in part.items():
            yield f"{name}.{key}"
            yield from _dotted(value, f"{name}.{key}")


def _resolved_if_complete(config: DictConfig, overrides: Sequence[str]) -> Mapping[str, Any] | None:
    """None if a value is missing that the overrides may yet give."""
    try:
        return resolved(config, overrides)
    except ConfigError:
        return None
