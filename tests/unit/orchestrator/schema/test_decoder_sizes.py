"""What follows from shapes alone; parameter counts are held against real models in `estimate/test_demand.py`."""

from orchestrator.schema.decoder_sizes import cached_width, grouped_width, kv_bytes_per_token, latent_width
from orchestrator.schema.training import AttentionKind, ModelConfig


def test_the_published_reduction_follows_from_the_published_shapes() -> None:
    """DeepSeek-V2 (arXiv:2405.04434, sections 3.1.2 and 3.2.3: 60 layers, latents of 512 and rotated keys of 64 in 6
    bits) against DeepSeek 67B (arXiv:2401.02954, table 2: 95 layers, 8 key heads of 128) in 16: it says 93.3 %."""
    latent = kv_bytes_per_token(latent_width(kv_rank=512, rope_dim=64), layers=60, bits=6)
    grouped = kv_bytes_per_token(grouped_width(kv_heads=8, head_dim=128), layers=95, bits=16)
    assert f"{1 - latent / grouped:.1%}" == "93.3%"


def test_a_configs_cache_is_as_wide_as_its_attention_asks() -> None:
    shape = {"d_model": 64, "heads": 4}
    assert cached_width(ModelConfig(**shape, kv_heads=4)) == 2 * 64
    assert cached_width(ModelConfig(**shape, kv_heads=1)) == 2 * 16
    assert cached_width(ModelConfig(**shape, attention=AttentionKind.mla, kv_rank=24, rope_dim=6)) == 30


def test_scales_are_counted_once_a_layer_and_token() -> None:
    assert kv_bytes_per_token(40, 2, 6, scale_bytes=4) == 2 * (30 + 4)
