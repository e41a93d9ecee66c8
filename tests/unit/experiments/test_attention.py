"""Attention of many small heads goes by batched products, and its results are those of torch's kernel."""

import pytest
import torch

from experiments.models import attention
from experiments.models.attention import KVCache, RotaryTable, Sight, attend
from experiments.models.shared_prompt import GroupLayout
from orchestrator.schema.training import ModelConfig

MODEL = {"layers": 1, "d_model": 32, "heads": 4, "d_ff": 32}
BATCH, ROWS, STEPS, GROUP = 32, 9, 3, 5


def attended(monkeypatch, heads_min: int, kv_heads: int, padded: bool, group: int) -> list[torch.Tensor]:
    """Of prompts, and of the steps that decode a group behind each, with products from `heads_min` heads on."""
    monkeypatch.setattr(attention, "SMALL_HEADS_MIN", heads_min)
    config = ModelConfig(**MODEL, kv_heads=kv_heads)
    generator = torch.Generator().manual_seed(0)
    padding = torch.randint(0, ROWS - 1, (BATCH,), generator=generator) if padded else None
    layout = GroupLayout(ROWS, group, STEPS, padding, torch.device("cpu"))
    cache, table, results = KVCache(1), RotaryTable.of(config), []
    for rows, (positions, mask) in [(ROWS, layout.prompt()), *((group, layout.step(i)) for i in range(STEPS))]:
        qkv = torch.randn(BATCH, rows, 4 + 2 * kv_heads, 8, generator=generator)
        results.append(attend(qkv, kv_heads, table(positions, 64), Sight(mask), cache, 0))
    return results


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("group", [1, GROUP])
def test_products_and_torchs_kernel_agree(monkeypatch, kv_heads, padded, group):
    products = attended(monkeypatch, 1, kv_heads, padded, group)
    kernel = attended(monkeypatch, 10_000, kv_heads, padded, group)
    for mine, theirs in zip(products, kernel, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_long_rows_and_few_heads_are_left_to_torchs_kernel(monkeypatch):
    def refuse(*_):
        raise AssertionError("batched products")

    monkeypatch.setattr(attention, "_mixed", refuse)
    for batch, rows in ((32, 41), (15, 9), (32, 1)):
        rotation = RotaryTable.of(ModelConfig(**MODEL))(torch.arange(rows), 64)
        attend(torch.randn(batch, rows, 12, 8), 4, rotation, Sight(None), None, 0)
