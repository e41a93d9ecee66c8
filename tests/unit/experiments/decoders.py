"""Small decoders with weights that matter: a fresh one is the identity in every layer."""

import torch

from experiments.models.decoder import Decoder
from orchestrator.schema.training import ModelConfig

VOCAB = 98


def small_decoder(seed: int = 0, **shape) -> Decoder:
    config = ModelConfig(**{"d_model": 32, "layers": 2, "heads": 4, "kv_heads": 4, "d_ff": 48, **shape})
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(config, VOCAB, generator)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return decoder
