"""The report as one HTML file that needs no network: accuracy against GPU-seconds, and the tables."""

from html import escape
from typing import Any, Final

from orchestrator.report import table
from orchestrator.report.document import Document

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d9dee5; text-align: left; vertical-align: top; }
.number { text-align: right; white-space: nowrap; }
.verdict { font-size: 1.05rem; border-left: 4px solid #3b6ea5; padding-left: 1rem; }
.note { color: #5a6675; } pre { background: #f6e9e9; padding: .6rem; overflow-x: auto; }
"""


def html_page(document: Document) -> str:
    """A self-contained page (about 5 MB, nearly all of it plotly's script). Slow to import: plotly, 0.5 s."""
    figure = _figure(document)
    notes = [*([table.CPU_NOTE] if document["study"]["device_kind"] == "cpu" else []), *document["verdict"]["notes"]]
    grids = [table.comparison_grid(document), table.trial_grid(document), table.throughput_grid(document)]
    errors = [f"<h2>{escape(name)} failed</h2><pre>{escape(text)}</pre>" for name, text in table.failures(document)]
    body = [
        f"<h1>{escape(table.heading(document))}</h1>",
        f'<p class="verdict">{escape(document["verdict"]["text"])}</p>',
        *(f'<p class="note">{escape(note)}</p>' for note in notes),
        figure,
        *(_table(grid) for grid in grids if grid.rows),
        *errors,
    ]
    title = escape(document["study"]["name"])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _figure(document: Document) -> str:
    """Test accuracy with its interval against GPU-seconds, a point per completed trial; empty if there is none."""
    completed = [
        t for t in document["trials"] if t["state"] == "completed" and t["metrics"].get("accuracy") is not None
    ]
    if not completed:
        return ""
    import plotly.graph_objects as go

    figure = go.Figure()
    for algorithm in sorted({trial["algorithm"] for trial in completed}):
        own = [trial for trial in completed if trial["algorithm"] == algorithm]
        figure.add_trace(_points(go, algorithm, own))
    figure.update_layout(
        xaxis_title="GPU-seconds held per trial",
        yaxis_title="test accuracy",
        yaxis_tickformat=".0%",
        xaxis_rangemode="tozero",
        template="plotly_white",
        margin={"t": 20},
        height=460,
    )
    starts = [t["metrics"]["start_accuracy"] for t in completed if t["metrics"].get("start_accuracy") is not None]
    if starts:
        mean = sum(starts) / len(starts)
        figure.add_hline(y=mean, line_dash="dot", annotation_text=f"start of the last stage, mean {mean:.1%}")
    text: str = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    return text


def _points(go: Any, algorithm: str, trials: list[Any]) -> Any:
    metrics = [trial["metrics"] for trial in trials]
    accuracy = [values["accuracy"] for values in metrics]
    above = [(values.get("accuracy_high") or values["accuracy"]) - values["accuracy"] for values in metrics]
    below = [values["accuracy"] - (values.get("accuracy_low") or values["accuracy"]) for values in metrics]
    return go.Scatter(
        x=[trial["gpu_seconds"] for trial in trials],
        y=accuracy,
        error_y={"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1},
        mode="markers",
        marker={"size": 10},
        name=algorithm,
        text=[escape(f"#{trial['number']} {' '.join(trial['overrides'])}") for trial in trials],
        hovertemplate="%{text}<br>%{y:.1%} for %{x:.1f} GPU-seconds<extra></extra>",
    )


def _table(grid: table.Grid) -> str:
    marks = ['class="number"' if name in grid.numbers else "" for name in grid.header]
    head = "".join(f"<th {mark}>{escape(name)}</th>" for mark, name in zip(marks, grid.header, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td {mark}>{escape(cell)}</td>" for mark, cell in zip(marks, row, strict=True)) + "</tr>"
        for row in grid.rows
    )
    return f'<h2>{escape(grid.title)}</h2><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>'
