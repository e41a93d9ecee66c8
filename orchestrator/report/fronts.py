"""The drawing of the Pareto fronts: accuracy against time to answer, and against GPU-hours, side by side."""

from collections.abc import Collection, Mapping, Sequence
from html import escape
from typing import Any, Final

from orchestrator.colors import ALGORITHM_COLORS
from orchestrator.report.settings import common_in, setting_name

INK: Final = "#1c2430"
MUTED: Final = "#5a6675"
"""Colours of `page.STYLE` that charts use too."""

_AXES: Final = (
    ("time_to_answer_p50_s", "on_time_front", "time to answer, median [s]"),
    ("gpu_hours", "on_gpu_hours_front", "GPU-hours held per trial"),
)
"""What accuracy is drawn against, what says who is on that front, and the name of the axis."""

READING: Final = (
    "A point per setting (mean over seeds, interval over seeds); named are those that nobody beats, and the line "
    "joins them."
)
PATIENCE: Final = (
    "Crosses: too late, since a twentieth of their answers or more takes longer than users wait; the dashed line."
)


def fronts_figure(document: Mapping[str, Any]) -> str:
    """The figure as HTML, empty if no setting was timed. Without plotly's script, which the page has by then."""
    pareto, common = document["pareto"], common_in(document)
    points = [point for point in pareto["points"] if point["time_to_answer_p50_s"] is not None]
    if not points:
        return ""
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04)
    for column, (axis, front, title) in enumerate(_AXES, 1):
        for algorithm in sorted({point["algorithm"] for point in points}):
            own = [point for point in points if point["algorithm"] == algorithm]
            _add_points(figure, column, algorithm, own, axis, front, common)
        _add_line(figure, column, points, axis, front)
        figure.update_xaxes(title_text=title, rangemode="tozero", row=1, col=column)
    patience_s = pareto["patience_s"]
    if patience_s is not None:
        figure.add_vline(x=patience_s, line={"dash": "dash", "width": 1}, annotation_text="patience", row=1, col=1)
    figure.update_layout(
        template="plotly_white",
        margin={"t": 30, "b": 50},
        height=440,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0.0},
        font={"size": 13},
    )
    figure.update_yaxes(title_text="test accuracy", row=1, col=1)
    figure.update_yaxes(tickformat=".0%")
    plot: str = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
    notes = (READING, *((PATIENCE,) if patience_s is not None else ()))
    return plot + "".join(f'<p class="note">{escape(note)}</p>' for note in notes)


def _add_points(
    figure: Any,
    column: int,
    algorithm: str,
    points: Sequence[Mapping[str, Any]],
    axis: str,
    front: str,
    common: Collection[str],
) -> None:
    """One algorithm's settings; the legend names it once, not in both halves."""
    import plotly.graph_objects as go

    names = [escape(setting_name(point["overrides"], common)) for point in points]
    color = ALGORITHM_COLORS.get(algorithm, MUTED)
    figure.add_trace(
        go.Scatter(
            x=[point[axis] for point in points],
            y=[point["accuracy"] for point in points],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [_beyond(point["accuracy_high"], point["accuracy"]) for point in points],
                "arrayminus": [_beyond(point["accuracy"], point["accuracy_low"]) for point in points],
                "thickness": 1,
            },
            mode="markers+text",
            marker={"size": 10, "color": color, "symbol": [_symbol(point) for point in points]},
            text=[name if point[front] else "" for name, point in zip(names, points, strict=True)],
            textposition="bottom right",
            textfont={"size": 10, "color": INK},
            cliponaxis=False,
            name=algorithm,
            legendgroup=algorithm,
            showlegend=column == 1,
            hovertext=[f"{algorithm} {name}" for name in names],
            hovertemplate="%{hovertext}<br>%{y:.1%} at %{x:.4g}<extra></extra>",
        ),
        row=1,
        col=column,
    )


def _add_line(figure: Any, column: int, points: Sequence[Mapping[str, Any]], axis: str, front: str) -> None:
    import plotly.graph_objects as go

    line = sorted((point[axis], point["accuracy"]) for point in points if point[front])
    style = {"shape": "hv", "width": 1, "color": INK}
    steps = go.Scatter(
        x=[x for x, _ in line], y=[y for _, y in line], mode="lines", line=style, hoverinfo="skip", showlegend=False
    )
    figure.add_trace(steps, row=1, col=column)


def _symbol(point: Mapping[str, Any]) -> str:
    return "x" if point["in_time"] is False else "circle"


def _beyond(high: float | None, low: float | None) -> float:
    """How far an interval reaches; nothing where there is none."""
    return 0.0 if high is None or low is None else high - low
