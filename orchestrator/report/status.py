"""A status document, and a list of studies, as tables for a terminal of 100 columns. See `control.views`."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.report.times import span, when

Document = Mapping[str, Any]

MAX_ROWS: Final = 30
MAX_DEVICES: Final = 16
_STATES_SHOWN: Final = ("running", "queued", "paused")


def print_status(document: Document, console: Console) -> None:
    """Write who serves, the devices with their residents, the studies, and the trials in order of service."""
    console.print(render_status(document))


def render_status(document: Document) -> RenderableType:
    """See `print_status`."""
    at = document["at"]
    parts: list[RenderableType] = [Text(line) for line in (_service(document["service"]), *_tenants(document))]
    if document["devices"]:
        parts += ["", _devices(document["devices"], at)]
    if document["studies"]:
        parts += ["", _studies(document["studies"], at)]
    live = [trial for trial in document["trials"] if trial["state"] in _STATES_SHOWN]
    shown = sorted(live if len(document["trials"]) > 1 else document["trials"], key=_in_order)
    if shown:
        studies = {trial["study"] for trial in shown}
        if len(studies) == 1:
            parts += [
                "",
                Text(f"trials of {studies.pop()} (as targets: STUDY-NNNN, or N of the last study)"),
            ]
        parts += [_trials(shown[:MAX_ROWS], at, numbers_only=not studies)]
    if len(shown) > MAX_ROWS:
        parts.append(Text(f"and {len(shown) - MAX_ROWS} more trials; --format json lists all", style="dim"))
    parts += [Text(_bar(bar, at)) for bar in document["service"].get("sharing", {}).get("bars", ())[:MAX_ROWS]]
    parts += [Text(_command(command, at)) for command in document["commands"][:MAX_ROWS]]
    return Group(*parts)


def print_studies(documents: Sequence[Document], console: Console) -> None:
    """Write one row per study."""
    table = _table("study", "submitted (UTC)", "tenant", "decided", "state")
    for study in documents:
        counts = study["trials_by_state"]
        idle = "" if study["state"] in ("over", "paused") or study["served"] else " (no service runs)"
        _row(
            table,
            study["id"],
            datetime.fromtimestamp(study["submitted_at"], UTC).strftime("%Y-%m-%d %H:%M:%S"),
            study["tenant"],
            f"{counts['completed'] + counts['pruned']}/{sum(counts.values())}",
            study["state"] + idle,
        )
    console.print(table)


def _service(service: Document) -> str:
    leader = service["leader"]
    if not service["served"]:
        silent = "" if leader is None else f" (process {leader['pid']} on {leader['host']} is silent since "
        since = "" if leader is None else f"{span(leader['beat_age_s'])})"
        return f"no service runs{silent}{since}: start one with `orchestrator serve`"
    parts = [f"{name}={service[name]}" for name in ("cluster", "ordering", "packing", "preemption") if service[name]]
    return f"served by process {leader['pid']} on {leader['host']}, term {leader['term']}: {' '.join(parts)}"


def _tenants(document: Document) -> list[str]:
    tenants = document["service"]["tenants"]
    if len(tenants) < 2 and all(tenant["quota"] is None for tenant in tenants):
        return []
    return [
        f"tenant {tenant['name']}: holds {tenant['held_devices']:.3g} device(s), "
        f"{'no quota' if tenant['quota'] is None else 'quota ' + format(tenant['quota'], 'g')}, "
        f"{tenant['waiting']} waiting"
        for tenant in tenants
    ]


def _devices(devices: Sequence[Document], at: float) -> Table:
    table = _table("device", "free", "holds")
    for device in devices[:MAX_DEVICES]:
        holds = "\n".join(_resident(resident, at) for resident in device["residents"]) or "idle"
        _row(table, device["id"], f"{max(0.0, device['free_share']):.2g}", holds)
    if len(devices) > MAX_DEVICES:
        _row(table, "…", "", f"{len(devices) - MAX_DEVICES} more devices")
    return table


def _resident(resident: Document, at: float) -> str:
    numbers = ", ".join(f"#{number}" for number in resident["numbers"][:4])
    more = f" and {len(resident['numbers']) - 4} more" if len(resident["numbers"]) > 4 else ""
    until = "" if resident["expected_end_at"] is None else f", until {when(resident['expected_end_at'], at)}"
    return f"{100 * resident['progress']:3.0f} %  {resident['stage']} of {numbers}{more}{until}"


def _studies(studies: Sequence[Document], at: float) -> Table:
    table = _table("study", "tenant", "prio", "trials", "expected end")
    for study in studies[:MAX_ROWS]:
        counts = ", ".join(f"{n} {state}" for state, n in study["trials_by_state"].items() if n)
        _row(table, study["id"], study["tenant"], str(study["priority"]), counts, _end(study, at))
    return table


def _end(study: Document, at: float) -> str:
    if study["ended_at"] is not None:
        return f"ended {when(study['ended_at'], at)}"
    return _when(study["eta_at"], at)


def _trials(trials: Sequence[Document], at: float, *, numbers_only: bool) -> Table:
    table = _table("place", "trial", "state", "starts", "ends", "why")
    for trial in trials:
        place = "" if trial["position"] is None else str(trial["position"])
        trial_id = f"#{trial['number']}" if numbers_only else trial["id"]
        state = "" if trial["stage"] is None else f", {trial['stage']} {100 * trial['progress']:.0f} %"
        error = trial["error"].strip().splitlines()[-1:] or [""]
        starts, ends = (_distance(trial[f"expected_{name}_at"], at) for name in ("start", "end"))
        _row(table, place, trial_id, trial["state"] + state, starts, ends, trial["why"] or error[0])
    return table


def _in_order(trial: Document) -> tuple[int, float, int]:
    """Those that run, then the queue in the order of service, then the others."""
    rank = {"running": 0, "queued": 1}.get(trial["state"], 2)
    return rank, float("inf") if trial["position"] is None else trial["position"], trial["number"]


def _bar(bar: Document, at: float) -> str:
    one, other = bar["kinds"]
    return f"{one} and {other} share no device until {when(bar['until'], at)}: {bar['reason']}"


def _command(command: Document, at: float) -> str:
    return (
        f"waiting to take effect: {command['kind']} {command['target']} by {command['author']}, "
        f"{when(command['at'], at)}"
    )


def _distance(expected_at: float | None, at: float) -> str:
    return "-" if expected_at is None else f"in {span(max(0.0, expected_at - at))}"


def _when(expected_at: float | None, at: float) -> str:
    return "-" if expected_at is None else when(expected_at, at)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", highlight=False)
    for column in columns:
        # An id is what the other commands want, so it is never cut.
        table.add_column(column, overflow="fold", no_wrap=column in ("study", "trial", "starts", "ends"))
    return table


def _row(table: Table, *cells: str) -> None:
    """Names, overrides and errors are shown as they are: nothing in them is markup."""
    table.add_row(*(Text(cell) for cell in cells))
