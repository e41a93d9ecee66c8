"""Simulated runs as one HTML file that needs no network: occupancy over time, who waits, and the tables."""

from collections.abc import Sequence
from html import escape
from typing import Any

from orchestrator.report.page import STYLE, tables
from orchestrator.simulation.results import Result
from orchestrator.simulation.table import Group, grids, groups_of

_SECONDS_PER_HOUR = 3600.0


def html_page(name: str, command: str, results: Sequence[Result]) -> str:
    """A self-contained page (about 5 MB, nearly all of it plotly's script). Slow to import: plotly, 0.5 s.

    A curve is that of a setting's first seed.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    groups = groups_of(results)
    timed = any(result.makespan_s is not None for result in results)
    figure: Any = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.65, 0.35])
    for number, group in enumerate(groups):
        for row, curve in enumerate(_curves(go, group, number, timed=timed), start=1):
            figure.add_trace(curve, row=row, col=1)
    figure.update_yaxes(title_text="devices held", tickformat=".0%", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="trials waiting", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(title_text="hours since the first submission" if timed else "arrivals", row=2, col=1)
    figure.update_layout(
        template="plotly_white", margin={"t": 30, "b": 50}, height=640, font={"size": 13}, hovermode="x unified",
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0.0},
    )  # fmt: skip
    plot = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    body = [
        f"<h1>{escape(name)}</h1>",
        f'<p class="note">{escape(command)}</p>',
        *tables(*grids(results)),
        f"<h2>Occupancy</h2>{plot}",
    ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _curves(go: Any, group: Group, number: int, *, timed: bool) -> tuple[Any, Any]:
    """The share of devices held, and the trials waiting, over time."""
    points = group.runs[0].occupancy
    began = points[0][0] if points else 0.0
    times = [(at - began) / _SECONDS_PER_HOUR if timed else at for at, _, _ in points]
    look = {"mode": "lines", "line": {"shape": "vh", "width": 1.5, "color": _COLORS[number % len(_COLORS)]}}
    held = go.Scatter(x=times, y=[share for _, share, _ in points], name=group.name, **look)
    waiting = go.Scatter(x=times, y=[count for _, _, count in points], name=group.name, showlegend=False, **look)
    return held, waiting


_COLORS = (
    "#1f77b4", "#d95f02", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#d62728",
)  # fmt: skip
