"""Root-mean-square normalisation (arXiv:1910.07467)."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name the whole field uses
from torch import Tensor, nn

NORM_EPS = 1e-6


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, NORM_EPS)
