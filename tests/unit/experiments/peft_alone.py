"""The oracle of adapters: peft's own model, with one adapter, called as a decoder is."""

import warnings

import peft
from torch import nn

from experiments.models.adapter import Adapter, peft_config, peft_weights
from experiments.models.hf import HfModel


class LoraModel(HfModel):
    """One model with one adapter, by peft. Only the adapter has gradients."""

    def __init__(self, base: nn.Module, adapter: Adapter) -> None:
        """Takes `base` over: peft puts its layers into it."""
        with warnings.catch_warnings():  # peft asks transformers for a name that has changed
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            peft_model = peft.get_peft_model(base, peft_config(adapter))
        peft.set_peft_model_state_dict(peft_model, peft_weights(adapter))
        super().__init__(peft_model.get_base_model())
        self._adapter = adapter

    def trained(self) -> dict[str, nn.Parameter]:
        """The adapter's parameters by the names of `Adapter.weights`, in the order of an optimizer over them."""
        return {
            name.replace(".default.", "."): weight
            for name, weight in self.model.named_parameters()
            if weight.requires_grad
        }

    def adapter(self) -> Adapter:
        """The adapter as it is now, a copy."""
        weights = {name: weight.detach().clone() for name, weight in self.trained().items()}
        return Adapter(self._adapter.rank, self._adapter.alpha, self._adapter.target_modules, weights)
