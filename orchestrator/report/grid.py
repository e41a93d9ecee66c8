"""A table as text, from which every form of the report makes its own, and how numbers become cells."""

from dataclasses import dataclass
from typing import Final

ABSENT: Final = "-"


@dataclass(frozen=True, slots=True)
class Grid:
    """A table as text. Columns named in `numbers` are set to the right; `notes` stand under it."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


def percent(fraction: float | None) -> str:
    """A fraction in per cent: `85.8`."""
    return ABSENT if fraction is None else f"{100 * fraction:.1f}"


def limits(low: float | None, high: float | None) -> str:
    """Two limits in whole per cent: `81-91`."""
    return ABSENT if low is None or high is None else f"{100 * low:.0f}-{100 * high:.0f}"


def gain(fraction: float | None) -> str:
    """A difference in points, with its sign: `+59.1`."""
    return ABSENT if fraction is None else f"{100 * fraction:+.1f}"


def number(value: float | None, digits: int) -> str:
    """With so many digits behind the point."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def milliseconds(seconds: float | None) -> str:
    """Seconds in ms: `1.9`."""
    return ABSENT if seconds is None else f"{1000 * seconds:.1f}"


def mebibytes(size_bytes: float | None) -> str:
    """Bytes in MiB: `212`."""
    return ABSENT if size_bytes is None else f"{size_bytes / 2**20:.0f}"


def kilobytes(size_bytes: float | None) -> str:
    """Bytes in kB: `428.0`."""
    return ABSENT if size_bytes is None else f"{size_bytes / 1000:.1f}"
