"""Adapters of different ranks as rows of one length.

A stack has a largest rank, and every A and B is that large; a member of a smaller rank has zeros in the rest. They
stay zero without a mask: the gradient of a row of A is a product with a column of B, which is zero, and the other way
round, so neither Adam nor weight decay moves them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from experiments.fusion.stack import StackLayout
from experiments.models.adapter import Site


@dataclass(frozen=True)
class LoraLayout:
    """Rows of adapters on `sites` of ranks up to `max_rank`."""

    sites: tuple[Site, ...]
    max_rank: int

    @property
    def rows(self) -> StackLayout:
        """Where each weight stands in a row of the stack."""
        return self.at(self.max_rank)

    def at(self, rank: int) -> StackLayout:
        """Where each weight of an adapter of `rank` stands in a row of its own: the order of peft's parameters."""
        names = [name for site in self.sites for name in (site.a, site.b)]
        shapes = [s for site in self.sites for s in ((rank, site.in_features), (site.out_features, rank))]
        return StackLayout(tuple(names), tuple(shapes), tuple(rows * columns for rows, columns in shapes))

    def widen(self, state: Mapping[str, Tensor], rank: int) -> Tensor:
        """An adapter's weights, or moments, as a row (N,) of the stack.

        Raises ValueError for a rank beyond `max_rank` and for other sites or shapes, naming the weight.
        """
        if rank > self.max_rank:
            raise ValueError(f"model.lora.rank={rank}: this stack's members have ranks up to {self.max_rank}")
        narrow, wide = self.at(rank), self.rows
        row = narrow.pack(state)
        out = row.new_zeros(wide.row_size)
        mine, theirs = wide.unpack(out), narrow.unpack(row)
        for site in self.sites:
            mine[site.a][:rank] = theirs[site.a]
            mine[site.b][:, :rank] = theirs[site.b]
        return out

    def narrow(self, row: Tensor, rank: int) -> dict[str, Tensor]:
        """The weights, or moments, of a member of `rank`, of its row (N,) of the stack; views of the row."""
        wide = self.rows.unpack(row)
        out: dict[str, Tensor] = {}
        for site in self.sites:
            out[site.a], out[site.b] = wide[site.a][:rank], wide[site.b][:, :rank]
        return out
