"""Where the least of many numbers is, when a few of them have changed since somebody last asked."""

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import numpy.typing as npt

# So many numbers have one least number above them: numpy looks through as many in the time that a call takes.
_WIDTH = 64


class Least:
    """A tree of least numbers over `values` (float64 [size]), each over `_WIDTH` of the level below.

    Whoever writes into `values` says where. Both that and asking cost the logarithm of how many there are.
    """

    def __init__(self, size: int) -> None:
        self._levels = [_of_whole_width(size)]
        while len(self._levels[-1]) > _WIDTH:
            self._levels.append(_of_whole_width(len(self._levels[-1]) // _WIDTH))
        self.values: npt.NDArray[np.float64] = self._levels[0][:size]

    def changed(self, places: Iterable[int] | None) -> None:
        """The numbers at these places are others now; None: all may be."""
        for lower, upper in pairwise(self._levels):
            below = lower.reshape(-1, _WIDTH)
            if places is None:
                upper[: len(below)] = below.min(axis=1)
                continue
            places = {place // _WIDTH for place in places}
            if len(places) == 1:
                (place,) = places
                upper[place] = below[place].min()
            else:
                at = list(places)
                upper[at] = below[at].min(axis=1)

    def first(self) -> int:
        """The place of the least number, the first of them if there are several; there must be one."""
        place = int(self._levels[-1].argmin())
        for lower in self._levels[-2::-1]:
            start = place * _WIDTH
            place = start + int(lower[start : start + _WIDTH].argmin())
        return place


def _of_whole_width(size: int) -> npt.NDArray[np.float64]:
    return np.full(-(-size // _WIDTH) * _WIDTH, np.inf)
