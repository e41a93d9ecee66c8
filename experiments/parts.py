"""What the parts of a stage's time are called, for whoever profiles it: `experiments.profiling`.

A function that is `timed_as` a part says so once, where it is defined. While nobody listens a call of it takes 0.3 µs
more, and a step makes a dozen of them; torch's `record_function` takes 5 µs, whether it is recorded or not.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from typing import Literal, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Part = Literal[
    "forward",
    "backward",
    "optimizer",
    "decode",
    "evaluate",
    "verify",
    "data",
    "report",
    "checkpoint",
    "start-up",
    "other",
]
COMPUTING: frozenset[Part] = frozenset({"forward", "backward", "optimizer", "decode"})
"""What a device is held for; all else is overhead. The random numbers that decoding samples by are a part of it, and
the graph of a loss is given back where it is gone through, in backward."""

Listener = Callable[[Part], AbstractContextManager[None]]
"""Enters a part, and leaves it."""

_listener: Listener | None = None


def timed_as(part: Part) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The time in the function counts as that part, but for what functions that it calls are timed as themselves."""

    def named(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if _listener is None:
                return function(*args, **kwargs)
            with _listener(part):
                return function(*args, **kwargs)

        return call

    return named


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Inside, `listener` is told of the parts of this process."""
    global _listener
    _listener = listener
    try:
        yield
    finally:
        _listener = None


class Clock:
    """Wall and CPU time of this process by part [s]; the innermost part that is open gets it.

    `settle` is called at every border between two parts: on a GPU it waits for the device, which else would get the
    time of one part while the host is in another.
    """

    def __init__(
        self,
        settle: Callable[[], None],
        wall: Callable[[], float] = time.perf_counter,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self.wall_s: dict[Part, float] = {}
        self.cpu_s: dict[Part, float] = {}
        self._settle, self._wall, self._cpu = settle, wall, cpu
        self._open: list[Part] = ["start-up"]
        self._stopped = False
        self._mark = wall(), cpu()

    def part(self, part: Part) -> AbstractContextManager[None]:
        """The time inside is that part's, but for the parts inside it."""
        return _Inside(self, part)

    def enter(self, part: Part) -> None:
        """That part begins. One inside itself is no border: to look at the clocks there takes longer than what a member
        of a stack has to report of a step."""
        if part != self._open[-1]:
            self.charge()
        self._open.append(part)

    def leave(self) -> None:
        """The part that began last ends."""
        if self._open[-1] != self._open[-2]:
            self.charge()
        self._open.pop()

    def begin_steps(self) -> None:
        """What belongs to no part is no start-up from now on."""
        self.charge()
        self._open[0] = "other"

    def stop(self) -> None:
        """Nobody gets the time until `go_on`."""
        self.charge()
        self._stopped = True

    def go_on(self) -> None:
        """Ends `stop`."""
        self._stopped = False
        self._mark = self._wall(), self._cpu()

    def charge(self) -> None:
        """Gives the time since the last border to the part that is open."""
        if self._stopped:
            return
        self._settle()
        wall, cpu = self._wall(), self._cpu()
        part = self._open[-1]
        self.wall_s[part] = self.wall_s.get(part, 0.0) + wall - self._mark[0]
        self.cpu_s[part] = self.cpu_s.get(part, 0.0) + cpu - self._mark[1]
        self._mark = wall, cpu


class _Inside:
    """A class of its own, since a generator takes twice as long to enter."""

    __slots__ = "_clock", "_part"

    def __init__(self, clock: Clock, part: Part) -> None:
        self._clock, self._part = clock, part

    def __enter__(self) -> None:
        self._clock.enter(self._part)

    def __exit__(self, *_: object) -> None:
        self._clock.leave()
