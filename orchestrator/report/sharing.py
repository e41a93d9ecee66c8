"""What work that shares a device does to each other, as rows and lines."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.grid import Grid

Pairs = Sequence[Mapping[str, Any]]

TITLE = "Sharing a device (as far as it was measured; together: 1 is what one after the other gets through)"


def sharing_grid(pairs: Pairs) -> Grid:
    """Two rows per pair of kinds, what each side takes beside the other; one for a kind beside itself. Pairs without a
    single interval to compare are left out."""
    header = ("kind", "beside", "shares", "times longer", "95 %", "intervals", "together", "95 % ")
    rows = []
    for pair in pairs:
        (one, other), shares = pair["kinds"], pair["shares"]
        sides = [(one, other, shares, pair["slowdowns"][0])]
        if one != other:
            sides.append((other, one, shares[::-1], pair["slowdowns"][1]))
        if not all(found["intervals"] for *_, found in sides):
            continue
        together = _two(pair["throughput"]), _range(pair["throughput_low"], pair["throughput_high"])
        for kind, beside, (share, beside_share), found in sides:
            rows.append(
                (
                    kind,
                    beside,
                    f"{share:g} + {beside_share:g}",
                    _two(found["mean"]),
                    _range(found["low"], found["high"]),
                    str(found["intervals"]),
                    *together,
                )
            )
    return Grid(TITLE, header, tuple(rows), frozenset(header[3:]))


def _two(value: float) -> str:
    return f"{value:.2f}"


def _range(low: float, high: float) -> str:
    return f"{_two(low)}-{_two(high)}"
