"""The view while a study runs: a table that redraws itself on a terminal, single lines in a log.

A log is anything that is no interactive terminal, a CI job, or a terminal with NO_COLOR set. There a line is written
when the number of trials in some state changes, but at most once per `MIN_LINE_INTERVAL_S`, and otherwise every
`LINE_INTERVAL_S`, so that a silent study can be told from a dead one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.schema import TrialState

REFRESHES_PER_S: Final = 4.0
LINE_INTERVAL_S: Final = 15.0
MIN_LINE_INTERVAL_S: Final = 5.0
MAX_DEVICE_ROWS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A stage run on a device, for one or more trials. `progress`: 0 to 1; `share`: of this device."""

    trial_numbers: tuple[int, ...]
    stage: str
    share: float
    progress: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceUse:
    """A device and who sits on it."""

    device_id: str
    residents: tuple[Resident, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best accuracy so far of one algorithm; `metric` says which accuracy that is."""

    algorithm: str
    accuracy: float
    trial_number: int
    metric: str = "dev"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What the view shows. `at`: seconds since the epoch, `elapsed_s`: since the study was submitted.

    `eta_s`: seconds until the study is expected to end, None while nobody can say. `device_kind`: `cpu` is said in the
    view. `message`: whatever else matters now, such as what the queue waits for.
    """

    at: float
    study: str
    elapsed_s: float
    counts: Mapping[TrialState, int]
    devices: tuple[DeviceUse, ...] = ()
    best: tuple[Best, ...] = ()
    experiments_per_gpu_hour: float = 0.0
    eta_s: float | None = None
    device_kind: str = ""
    message: str = ""


class LiveView:
    """Shows each `Progress` it is given, on `console`. A context manager; `update` may be called at any rate."""

    def __init__(self, console: Console) -> None:
        self._console = console
        plain = not console.is_terminal or bool(os.environ.get("NO_COLOR") or os.environ.get("CI"))
        self._live = None if plain else Live(console=console, auto_refresh=False, transient=True)
        self._shown_at = float("-inf")
        self._shown_counts: Mapping[TrialState, int] | None = None
        self._last: Progress | None = None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the final state on the screen or in the log, unless it is there already."""
        if self._live is not None:
            self._live.stop()
        if self._last is not None and (self._live is not None or self._last.counts != self._shown_counts):
            self._console.print(progress_line(self._last), soft_wrap=True, highlight=False, markup=False)

    def update(self, progress: Progress) -> None:
        """Show `progress` if it is due; cheap if it is not (a comparison of a few numbers)."""
        self._last = progress
        if not self._due(progress):
            return
        self._shown_at, self._shown_counts = progress.at, progress.counts
        if self._live is not None:
            self._live.update(progress_table(progress), refresh=True)
        else:
            self._console.print(progress_line(progress), soft_wrap=True, highlight=False, markup=False)

    def _due(self, progress: Progress) -> bool:
        waited_s = progress.at - self._shown_at
        if self._live is not None:
            return waited_s >= 1.0 / REFRESHES_PER_S
        changed = progress.counts != self._shown_counts
        return waited_s >= (MIN_LINE_INTERVAL_S if changed else LINE_INTERVAL_S)


def progress_line(progress: Progress) -> str:
    """All that matters in one line of a log."""
    busy = sum(bool(device.residents) for device in progress.devices)
    parts = [_duration(progress.elapsed_s), _counts(progress), f"devices {busy}/{len(progress.devices)} busy"]
    if progress.best:
        parts.append(f"best {_best(progress)}")
    parts.append(_rate(progress))
    return " | ".join(parts)


def progress_table(progress: Progress) -> RenderableType:
    """Trials by state, devices with their residents, the best so far, the rate and the ETA."""
    devices = Table(box=None, pad_edge=False, header_style="dim")
    devices.add_column("device", no_wrap=True)
    devices.add_column("holds", overflow="fold")
    for device in progress.devices[:MAX_DEVICE_ROWS]:
        residents = "\n".join(_resident(resident) for resident in device.residents) or "idle"
        devices.add_row(Text(device.device_id), Text(residents, style="" if device.residents else "dim"))
    hidden = len(progress.devices) - MAX_DEVICE_ROWS
    if hidden > 0:
        devices.add_row("…", f"{hidden} more devices")
    head = Text.assemble((progress.study, "bold"), "  ", _duration(progress.elapsed_s), "  ", _counts(progress))
    lines: list[RenderableType] = [head, devices]
    if progress.best:
        lines.append(Text(f"best so far: {_best(progress)}"))
    lines.append(Text(_rate(progress)))
    if progress.message:
        lines.append(Text(progress.message, style="dim"))
    return Group(*lines)


def _counts(progress: Progress) -> str:
    return ", ".join(f"{n} {state}" for state in TrialState if (n := progress.counts.get(state, 0))) or "no trials yet"


def _best(progress: Progress) -> str:
    return ", ".join(
        f"{best.algorithm} {100 * best.accuracy:.1f} % {best.metric} (#{best.trial_number})" for best in progress.best
    )


def _rate(progress: Progress) -> str:
    eta = "ETA unknown" if progress.eta_s is None else f"ETA {_duration(progress.eta_s)}"
    kind = " (CPU cores stand in)" if progress.device_kind == "cpu" else ""
    return f"{progress.experiments_per_gpu_hour:.0f} experiments per GPU-hour{kind} | {eta}"


def _resident(resident: Resident) -> str:
    shown = ", ".join(f"#{number}" for number in resident.trial_numbers[:4])
    more = len(resident.trial_numbers) - 4
    trials = f"{shown} and {more} more" if more > 0 else shown
    filled = round(10 * min(1.0, max(0.0, resident.progress)))
    bar = "█" * filled + "░" * (10 - filled)
    share = "" if resident.share >= 1.0 else f" on {resident.share:.2g} of it"
    return f"{bar} {100 * resident.progress:3.0f} %  {resident.stage} {trials}{share}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
