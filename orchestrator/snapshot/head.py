"""The head of an order of service."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload

from orchestrator.schema import Request


class Head(Sequence[Request]):
    """The first `limit` requests of an order of service, taken from it as far as somebody looks: a policy that stops at
    the first request that doesn't fit costs what it placed."""

    def __init__(self, ordered: Iterable[Request], limit: int) -> None:
        self._coming = islice(ordered, limit)
        self._taken: list[Request] = []

    def __iter__(self) -> Iterator[Request]:
        position = 0
        while position < len(self._taken) or self._take_one():
            yield self._taken[position]
            position += 1

    def __len__(self) -> int:
        self._taken.extend(self._coming)
        return len(self._taken)

    @overload
    def __getitem__(self, index: int) -> Request: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Request]: ...

    def __getitem__(self, index: int | slice) -> Request | Sequence[Request]:
        self._taken.extend(self._coming)
        return self._taken[index]

    def _take_one(self) -> bool:
        had = len(self._taken)
        self._taken.extend(islice(self._coming, 1))
        return len(self._taken) > had
