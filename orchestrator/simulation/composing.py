"""From the overrides of one command line to the configs of simulated runs, one per combination of what is swept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from orchestrator.config import ConfigError, register_schemas
from orchestrator.simulation.config import SCHEMAS
from orchestrator.simulation.validation import validate
from orchestrator.sweep.composing import Composer, hydra_session
from orchestrator.sweep.overrides import combinations, count_variants, parse_overrides, text_of, value_of

ROOT = "simulate"
# More than this is a slip of the pen such as range(0,1e6).
MAX_RUNS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedRun:
    """One simulated run. `swept` are the values of what was swept, as they were written, by key and in order."""

    config: Mapping[str, Any]
    swept: Mapping[str, str]


def compose_runs(overrides: Sequence[str], config_dir: Path | None = None) -> tuple[ComposedRun, ...]:
    """Compose and validate every run. `config_dir`: an absolute folder instead of the packaged `conf`.

    Raises ConfigError naming the override, group or field that is wrong.
    """
    register_schemas(SCHEMAS, "orchestrator.simulation.config")
    with hydra_session(config_dir):
        composer = Composer(ROOT)
        last = {str(o.key_or_group): o for o in parse_overrides(overrides)}
        swept = [key for key, override in last.items() if override.is_sweep_override()]
        count = count_variants(list(last.values()))
        if not 1 <= count <= MAX_RUNS:
            raise ConfigError("sweep", _in_words(last, swept), f"{count} runs; a simulation has 1 to {MAX_RUNS}")
        return tuple(_composed(composer, chosen, swept) for chosen in combinations(list(last.values())))


def compose_base(overrides: Sequence[str], config_dir: Path | None = None) -> str:
    """The composed config without what is swept, as YAML: what `--cfg job` prints. Raises ConfigError."""
    register_schemas(SCHEMAS, "orchestrator.simulation.config")
    with hydra_session(config_dir):
        fixed = [text_of(o) for o in parse_overrides(overrides) if not o.is_sweep_override()]
        return OmegaConf.to_yaml(Composer(ROOT).compose(fixed))


def _composed(composer: Composer, chosen: Sequence[str], swept: Sequence[str]) -> ComposedRun:
    config = composer.config(chosen)
    validate(config)
    values = dict(text.lstrip("+").split("=", 1) for text in chosen if "=" in text)
    return ComposedRun(config=config, swept={key: values[key] for key in swept})


def _in_words(overrides: Mapping[str, Override], swept: Sequence[str]) -> str:
    return " ".join(f"{key}={value_of(overrides[key])}" for key in swept)
