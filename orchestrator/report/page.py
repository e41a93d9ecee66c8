"""The report as one HTML file that needs no network: accuracy against GPU-seconds, and the tables."""

from collections.abc import Sequence
from html import escape
from itertools import cycle
from typing import Any, Final

from orchestrator.colors import ALGORITHM_COLORS
from orchestrator.report import table
from orchestrator.report.document import Document
from orchestrator.report.fronts import MUTED, fronts_figure
from orchestrator.report.grid import Grid
from orchestrator.report.pareto import pareto_grid
from orchestrator.report.regret import regret_lines
from orchestrator.report.searched import search_line
from orchestrator.report.sharing import sharing_grid

_SYMBOLS: Final = ("circle", "diamond", "square", "triangle-up")

_FIGURES: Final = (
    ("experiments_per_gpu_hour", "experiments per GPU-hour"),
    ("experiments_decided", "experiments decided"),
    ("gpu_hours_held", "GPU-hours held"),
    ("stages_reused", "stages reused"),
)

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #1c2430; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #d9dee5; text-align: left; vertical-align: top; }
.number { text-align: right; white-space: nowrap; }
.verdict { border-left: 4px solid #3b6ea5; padding-left: 1rem; margin: 1.2rem 0; }
.verdict p { margin: .3rem 0; } .verdict p:first-child { font-size: 1.1rem; font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: .4rem 2.5rem; margin: 1.2rem 0; }
.figures div { color: #5a6675; } .figures b { display: block; font-size: 1.5rem; line-height: 1.2; color: #1c2430; }
.note { color: #5a6675; margin: .3rem 0; } pre { background: #f6e9e9; padding: .6rem; overflow-x: auto; }
"""
"""Of every page that this project writes."""


def html_page(document: Document) -> str:
    """A self-contained page (about 5 MB, nearly all of it plotly's script). Slow to import: plotly, 0.5 s.

    What a lead asks comes first: who won and how sure that is, what the machine delivered, the settings side by side.
    """
    study = document["study"]
    notes = [*([table.CPU_NOTE] if study["device_kind"] == "cpu" else []), *document["verdict"]["notes"]]
    errors = [f"<h2>{escape(name)} failed</h2><pre>{escape(text)}</pre>" for name, text in table.failures(document)]
    about = [study["id"], table.outcome(document), *study["sweep"]]
    body = [
        f"<h1>{escape(study['name'])}</h1>",
        _note(" · ".join(about)),
        _verdict(document),
        _figures(document),
        *tables(table.comparison_grid(document)),
        *map(_note, notes),
        _figure(document),
        *tables(table.outcome_grid(document), pareto_grid(document)),
        fronts_figure(document),
        *tables(table.trial_grid(document), table.throughput_grid(document), sharing_grid(document.get("sharing", ()))),
        *_section("Estimates", table.eta_lines(document) + table.estimate_lines(document)),
        *_section("Early stopping", regret_lines(document.get("pruning_regret"))),
        *_search(document),
        *errors,
    ]
    title = escape(study["name"])
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _verdict(document: Document) -> str:
    """The verdict with a line for every sentence, the first one as the headline."""
    lines = document["verdict"]["sentences"]
    return '<div class="verdict">' + "".join(f"<p>{escape(line)}</p>" for line in lines) + "</div>"


def _section(title: str, lines: Sequence[str]) -> list[str]:
    """A heading and a paragraph a line; nothing without lines."""
    return [f"<h2>{title}</h2>", *map(_note, lines)] if lines else []


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _search(document: Document) -> list[str]:
    """What the search asked, what it found by now, and what that goes by."""
    search = document.get("search")
    if not search:
        return []
    points = ", ".join(f"{count} {state}" for state, count in search["points"].items() if count)
    lines = [
        f"{search_line(search)}.",
        f"Points: {points or 'none yet'}.",
        f"Its aim: to {search['direction']} {search['metric']}, a mean over a point's seeds.",
        f"Drawn, with seed {search['seed']}, from: {' '.join(search['space'])}",
    ]
    return _section("Search", lines)


def _figures(document: Document) -> str:
    values = {row[0]: row[1] for row in table.throughput_grid(document).rows}
    figures = (f"<div><b>{escape(values[key])}</b>{text}</div>" for key, text in _FIGURES if key in values)
    return f'<div class="figures">{"".join(figures)}</div>'


def _figure(document: Document) -> str:
    """Test accuracy with its interval against GPU-seconds, a point per completed trial; empty if there is none."""
    completed = [
        t for t in document["trials"] if t["state"] == "completed" and t["metrics"].get("accuracy") is not None
    ]
    if not completed:
        return ""
    import plotly.graph_objects as go

    figure = go.Figure()
    for algorithm, symbol in zip(sorted({trial["algorithm"] for trial in completed}), cycle(_SYMBOLS), strict=False):
        own = [trial for trial in completed if trial["algorithm"] == algorithm]
        figure.add_trace(_points(go, algorithm, symbol, own))
    figure.update_layout(
        xaxis_title="GPU-seconds held per trial",
        yaxis_title="test accuracy",
        yaxis_tickformat=".0%",
        xaxis_rangemode="tozero",
        template="plotly_white",
        margin={"t": 30, "b": 50},
        height=440,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0.0},
        font={"size": 13},
    )
    base = document["base"]
    if base["accuracy_mean"] is not None:
        figure.add_hline(
            y=base["accuracy_mean"],
            line={"dash": "dot", "width": 1, "color": MUTED},
            annotation_text=f"what gains are above ({' and '.join(base['stages'] or ()) or 'its start'})",
            annotation_position="top left",
        )
    plot: str = figure.to_html(full_html=False, include_plotlyjs=True, config={"displaylogo": False})
    return f"<h2>Accuracy against cost (a point per trial, interval over test problems)</h2>{plot}"


def _points(go: Any, algorithm: str, symbol: str, trials: list[Any]) -> Any:
    metrics = [trial["metrics"] for trial in trials]
    accuracy = [values["accuracy"] for values in metrics]
    above = [(values.get("accuracy_high") or values["accuracy"]) - values["accuracy"] for values in metrics]
    below = [values["accuracy"] - (values.get("accuracy_low") or values["accuracy"]) for values in metrics]
    return go.Scatter(
        x=[trial["gpu_seconds"] for trial in trials],
        y=accuracy,
        error_y={"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1},
        mode="markers",
        marker={"size": 10, "symbol": symbol, "color": ALGORITHM_COLORS.get(algorithm)},
        name=algorithm,
        text=[escape(f"#{trial['number']} {' '.join(trial['overrides'])}") for trial in trials],
        hovertemplate="%{text}<br>%{y:.1%} for %{x:.1f} GPU-seconds<extra></extra>",
    )


def tables(*grids: Grid) -> list[str]:
    """Each grid that has rows, with its title, as HTML."""
    return [_table(grid) for grid in grids if grid.rows]


def _table(grid: Grid) -> str:
    marks = ['class="number"' if name in grid.numbers else "" for name in grid.header]
    head = "".join(f"<th {mark}>{escape(name)}</th>" for mark, name in zip(marks, grid.header, strict=True))
    rows = "".join(
        "<tr>" + "".join(f"<td {mark}>{escape(cell)}</td>" for mark, cell in zip(marks, row, strict=True)) + "</tr>"
        for row in grid.rows
    )
    notes = "".join(map(_note, grid.notes))
    return f'<h2>{escape(grid.title)}</h2><div class="scroll"><table><tr>{head}</tr>{rows}</table></div>{notes}'
