"""What the leader has measured of work that shares devices, in a file for whoever looks: `status`, `explain`, `report`.

It lies in the home of the machine that leads. Nobody schedules by it; a new leader begins an empty one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.home import Home
from orchestrator.interference import Bar, Interference, Together
from orchestrator.schema import Study

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """`pairs` as `pair_document` has them; `bars` are those that hold."""

    pairs: Sequence[Document] = ()
    bars: tuple[Bar, ...] = ()

    def conflicts(self) -> dict[str, tuple[str, ...]]:
        """By kind, the kinds that it may not sit beside."""
        found: dict[str, dict[str, None]] = {}
        for one, other in (bar.kinds for bar in self.bars):
            found.setdefault(one, {})[other] = None
            found.setdefault(other, {})[one] = None
        return {kind: tuple(others) for kind, others in found.items()}

    def bar_between(self, kind: str, other: str) -> Bar | None:
        """The bar between two kinds, if there is one."""
        first, second = sorted((kind, other))
        return next((bar for bar in self.bars if bar.kinds == (first, second)), None)


NOTHING_MEASURED = Sharing()


class SharingFile:
    """Written by whoever leads, whenever something was learned."""

    def __init__(self, home: Home) -> None:
        self._path = home.sharing_path
        self._written = (-1, -1.0)
        self._write({"pairs": [], "bars": []})

    def keep_up(self, interference: Interference) -> None:
        """Write what is known, if it has been judged since the last time."""
        if interference.judged != self._written:
            self._written = interference.judged
            bars = [bar_document(bar) for bar in interference.bars]
            self._write({"pairs": [pair_document(together) for together in interference.table()], "bars": bars})

    def _write(self, document: Document) -> None:
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(document))
        unfinished.replace(self._path)


def read_sharing(home: Home, at: float) -> Sharing:
    """What the last leader here measured, and its bars that hold at `at` [s since the epoch]; nothing if none did."""
    document = _read(home.sharing_path)
    bars = (
        Bar(**{**bar, "kinds": tuple(bar["kinds"]), "device_ids": tuple(bar["device_ids"])})
        for bar in document.get("bars", ())
    )
    return Sharing(pairs=document.get("pairs", ()), bars=tuple(bar for bar in bars if bar.until > at))


def pairs_for_report(home: Home, study: Study, at: float) -> Sequence[Document]:
    """Of a study that is over those in its report, else those of now."""
    if study.ended_at is not None:
        kept = _read(home.report_folder(study.study_id) / "report.json")
        if "sharing" in kept:
            pairs: Sequence[Document] = kept["sharing"]
            return pairs
    return read_sharing(home, at).pairs


def pair_document(together: Together) -> Document:
    """Plain data; see the READMEs of `control` and `report`."""
    return {
        "kinds": list(together.kinds),
        "shares": list(together.shares),
        "slowdowns": [
            {"mean": found.mean, "low": found.low, "high": found.high, "intervals": found.slices}
            for found in together.slowdowns
        ],
        "throughput": together.throughput,
        "throughput_low": together.throughput_low,
        "throughput_high": together.throughput_high,
    }


def bar_document(bar: Bar) -> Document:
    """Plain data."""
    return {
        "kinds": list(bar.kinds),
        "reason": bar.reason,
        "since": bar.since,
        "until": bar.until,
        "device_ids": list(bar.device_ids),
    }


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found
