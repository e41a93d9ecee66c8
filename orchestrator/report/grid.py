"""A table as text, from which every form of the report makes its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Grid:
    """A table as text. Columns named in `numbers` are set to the right."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: frozenset[str] = frozenset()
