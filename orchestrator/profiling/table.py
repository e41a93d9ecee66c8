"""A profile as tables for people."""

from collections.abc import Mapping
from typing import Any

from orchestrator.report.grid import Grid

_MS, _PERCENT = 1000.0, 100.0


def parts_grid(document: Mapping[str, Any]) -> Grid:
    """Where the time went, by part."""
    header = ("part", "seconds", "share %", "CPU s", "CPU %", "overhead")
    rows = [
        (
            part["part"],
            f"{part['wall_s']:.3f}",
            f"{_PERCENT * part['share']:.1f}",
            f"{part['cpu_s']:.3f}",
            f"{_PERCENT * part['share_cpu']:.1f}",
            "yes" if part["overhead"] else "",
        )
        for part in document["parts"]
    ]
    total = ("all", f"{document['wall_s']:.3f}", "100.0", f"{document['cpu_s']:.3f}", "100.0", "")
    title = f"Stage {document['stage']} of {document['trial_id']}: {_what(document)}"
    return Grid(title, header, (*rows, total), frozenset(header[1:5]))


def operators_grid(document: Mapping[str, Any]) -> Grid:
    """The operators with the most time of their own; each step of the trace counts, which is slowed down by tracing."""
    on_gpu = document["device_kind"] == "cuda"
    steps = max(1, document["traced_steps"])
    header = ("operator", "calls/step", "CPU ms/step", *(("GPU ms/step",) if on_gpu else ()))
    rows = tuple(
        (
            row["name"],
            f"{row['calls'] / steps:.0f}",
            f"{_MS * row['self_cpu_s'] / steps:.2f}",
            *((f"{_MS * row['self_device_s'] / steps:.2f}",) if on_gpu else ()),
        )
        for row in document["operators"]
    )
    return Grid(f"Operators of {document['traced_steps']} traced steps, own time", header, rows, frozenset(header[1:]))


def overhead_lines(document: Mapping[str, Any]) -> list[str]:
    """What of it is overhead, and how the trial's own runs used their devices."""
    lines = [
        f"Overhead, all that is not forward, backward, optimizer or decode: {_PERCENT * document['overhead']:.1f} % of "
        f"the wall time, {_PERCENT * document['overhead_cpu']:.1f} % of the CPU time."
    ]
    if not document["alone"]:
        lines.append("Another run used this machine's devices meanwhile: CPU time says more than wall time.")
    if document["runs_held_s"]:
        held_s = document["runs_held_s"]
        idle = _PERCENT * (1.0 - document["runs_busy_s"] / held_s)
        lines.append(
            f"Its own runs in the study held their devices for {held_s:.1f} s; {idle:.1f} % of it lies outside steps "
            "and evaluations (start, checkpoints, reports, commit)."
        )
    return lines


def _what(document: Mapping[str, Any]) -> str:
    steps = f"{document['steps']} steps"
    if document["whole_stage"]:
        steps += ", from start to end"
    elif document["started_at_step"]:
        steps += f" from step {document['started_at_step']}"
    copies = f", {document['width']} copies as one program" if document["width"] > 1 else ""
    return f"{steps}{copies}, on {document['device']} (device_kind={document['device_kind']})"
