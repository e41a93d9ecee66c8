"""Times for people: the local clock, and how far away that is."""

from datetime import datetime

_NOW_S = 0.5
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def span(seconds: float) -> str:
    """`45 s`, `3 min`, `2.5 h`, `3 d`."""
    if seconds < 1.5 * _MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < 1.5 * _HOUR_S:
        return f"{seconds / _MINUTE_S:.0f} min"
    if seconds < 2 * _DAY_S:
        return f"{seconds / _HOUR_S:.1f} h"
    return f"{seconds / _DAY_S:.0f} d"


def clock(at: float, now: float) -> str:
    """The local time of `at` [s since the epoch], with the date if it is far from `now`."""
    near = abs(at - now) < _DAY_S / 2
    return datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S" if near else "%Y-%m-%d %H:%M")


def when(at: float, now: float) -> str:
    """`20:41:03 (in 3 min)`, `20:31:10 (5 min ago)`, `20:36:00 (now)`."""
    distance = f"in {span(at - now)}" if at >= now else f"{span(now - at)} ago"
    if abs(at - now) < _NOW_S:
        distance = "now"
    return f"{clock(at, now)} ({distance})"
