"""LoRA adapters (arXiv:2106.09685) as plain tensors, and on disk as peft reads and writes them.

An adapted linear layer computes W x + (alpha / rank) B A x, with W frozen.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_CONFIG_FILE = "adapter_config.json"
_PREFIX = "base_model.model."
"""What peft puts before the name of a module of the base."""

_UNSUPPORTED = {
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "fan_in_fan_out": False,
    "lora_bias": False,
}
"""peft's settings that change what an adapter computes, with the only value that is understood here."""


@dataclass(frozen=True, slots=True)
class Site:
    """A linear layer of the base that is adapted."""

    name: str
    in_features: int
    out_features: int

    @property
    def a(self) -> str:
        """Name of A, (rank, in_features)."""
        return f"{self.name}.lora_A.weight"

    @property
    def b(self) -> str:
        """Name of B, (out_features, rank)."""
        return f"{self.name}.lora_B.weight"


@dataclass(frozen=True)
class Adapter:
    """One adapter. weights: A and B of every site, by `Site.a` and `Site.b`."""

    rank: int
    alpha: float
    target_modules: tuple[str, ...]
    weights: dict[str, Tensor]


def draw_adapter(
    sites: Sequence[Site],
    target_modules: Sequence[str],
    rank: int,
    alpha: float,
    generator: torch.Generator | None = None,
) -> Adapter:
    """A fresh adapter, which changes nothing yet: B is zero, A uniform within 1 / sqrt(in_features) as in peft."""
    weights: dict[str, Tensor] = {}
    for site in sites:
        bound = site.in_features**-0.5
        weights[site.a] = torch.empty(rank, site.in_features).uniform_(-bound, bound, generator=generator)
        weights[site.b] = torch.zeros(site.out_features, rank)
    return Adapter(rank, alpha, tuple(target_modules), weights)


def peft_config(adapter: Adapter, base: str | None = None) -> Any:
    """peft's `LoraConfig` of an adapter, of the model at `base`."""
    import peft  # late, as safetensors below: whoever trains something else needs neither

    return peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,  # type: ignore[arg-type]  # a fraction is fine: it is only divided by the rank
        target_modules=list(adapter.target_modules),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
    )


def peft_weights(adapter: Adapter) -> dict[str, Tensor]:
    """An adapter's weights by peft's names."""
    return {_PREFIX + name: weight.detach().cpu().contiguous() for name, weight in adapter.weights.items()}


def save_adapter(adapter: Adapter, base: str, folder: Path) -> None:
    """Writes an adapter of the model at `base` into an existing folder, as `PeftModel.from_pretrained` loads it."""
    from safetensors.torch import save_file

    config = peft_config(adapter, base)
    config.inference_mode = True  # as peft itself does it for what it saves
    config.save_pretrained(str(folder))
    save_file(peft_weights(adapter), folder / ADAPTER_FILE)


def base_of_adapter(folder: Path) -> str:
    """The path of the model that the adapter in a folder is of. Raises FileNotFoundError where there is none."""
    return str(json.loads((folder / ADAPTER_CONFIG_FILE).read_text())["base_model_name_or_path"])


def load_adapter(folder: Path) -> Adapter:
    """The LoRA adapter that `save_adapter`, or peft, wrote; the weights on the CPU.

    Raises FileNotFoundError where there is none and ValueError for another kind of adapter, naming the setting.
    """
    from safetensors.torch import load_file

    path = folder / ADAPTER_CONFIG_FILE
    config: dict[str, Any] = json.loads(path.read_text())
    if config["peft_type"] != "LORA":
        raise ValueError(f"{path}: peft_type is {config['peft_type']}, only LORA is understood")
    for name, value in _UNSUPPORTED.items():
        if (found := config.get(name, value)) != value:
            raise ValueError(f"{path}: {name} is {found!r}, only {value!r} is understood")
    if not isinstance(targets := config["target_modules"], list):
        raise ValueError(f"{path}: target_modules is {targets!r}, only a list of module names is understood")
    weights = {name.removeprefix(_PREFIX): weight for name, weight in load_file(folder / ADAPTER_FILE).items()}
    return Adapter(config["r"], config["lora_alpha"], tuple(sorted(targets)), weights)
