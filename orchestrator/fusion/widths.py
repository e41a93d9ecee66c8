"""How many members a stack should have, by what stacks of its key were measured to do.

A stack of width w does w member-steps in the time of one of its steps; its *throughput* is those per second. It grows
with the width as long as the work of one member leaves the device idle, and falls again where members only push each
other out of the caches. Nobody knows beforehand where, so the width is searched by doubling and halving around the best
that was measured, from `FIRST` on: every try is work that had to be done anyway.

Widths that aren't powers of two count for the nearest one, by ratio: members leave one by one, and what is seen on the
way down is worth knowing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

# The first stack of a key. It lives as long as somebody refills it, so too narrow costs more than too wide: on a CPU
# sixteen took 10 to 15 % less time a member-step than eight at d 32, and as much as eight at d 64.
FIRST = 16
# A width is known once it was seen for so long [s]. What was seen earlier counts less and less.
_ENOUGH_S, _KEPT_S = 1.0, 60.0


@dataclass(slots=True)
class _Seen:
    member_steps: float = 0.0
    seconds: float = 0.0

    @property
    def throughput(self) -> float:
        return self.member_steps / self.seconds if self.seconds else 0.0


class Widths:
    """What was measured of each fusion key. `revision` grows with every observation."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[int, _Seen]] = {}
        self._limits: dict[str, int] = {}
        # By key, what a program took [bytes] and at which width.
        self._memory: dict[str, dict[int, int]] = {}

    def observe(self, fusion_key: str, width: int, steps: float, seconds: float) -> None:
        """Each of `width` members (1: a stage alone on its device) went on by `steps` in `seconds`."""
        if not fusion_key or steps <= 0 or seconds <= 0:
            return
        seen = self._seen.setdefault(fusion_key, {}).setdefault(_power(width), _Seen())
        kept = min(1.0, _KEPT_S / (seen.seconds + seconds))
        seen.member_steps = (seen.member_steps + steps * width) * kept
        seen.seconds = (seen.seconds + seconds) * kept

    def observe_memory(self, fusion_key: str, width: int, memory_bytes: int) -> None:
        """The program of a stack of `width` members took `memory_bytes` of its device in all."""
        of_key = self._memory.setdefault(fusion_key, {})
        of_key[width] = max(of_key.get(width, 0), memory_bytes)

    def exceeded(self, fusion_key: str, width: int) -> None:
        """A stack of `width` members took more memory than it was given: no more of them from now on."""
        self._limits[fusion_key] = min(self._limits.get(fusion_key, width), max(1, width // 2))

    def memory_bytes(self, fusion_key: str, width: int) -> int | None:
        """What a stack of `width` members takes at most, by what was seen; None if nothing was.

        A program takes what it takes without members, and so much for each: more members never take more than in
        proportion, and fewer never take more.
        """
        seen = self._memory.get(fusion_key, {})
        return min((math.ceil(took * max(1.0, width / of)) for of, took in seen.items()), default=None)

    def best(self, fusion_key: str, largest: int) -> int:
        """The width to try next, from 1 (alone) to `largest`."""
        largest = max(1, min(largest, self._limits.get(fusion_key, largest)))
        known = self.throughputs(fusion_key)
        if not known:
            return min(FIRST, largest)
        best = max(known, key=lambda width: (known[width], -width))
        wider = 2 * best if max(known) > best else max(2 * best, FIRST)
        for width in (min(wider, largest), best // 2):
            if width > 0 and _power(width) not in known:
                return width
        return min(best, largest)

    def throughputs(self, fusion_key: str) -> Mapping[int, float]:
        """Member-steps per second by width (powers of two), of the widths that were seen for long enough."""
        seen = self._seen.get(fusion_key, {})
        return {width: found.throughput for width, found in sorted(seen.items()) if found.seconds >= _ENOUGH_S}


def _power(width: int) -> int:
    """The power of two that is nearest by ratio."""
    return 1 << round(math.log2(max(1, width)))
