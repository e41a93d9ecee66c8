"""The report's document as tables for people, on a terminal or as Markdown.

Rows first become plain text (`comparison_grid` and others), so that every form shows the same numbers.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from orchestrator.report.document import Document
from orchestrator.report.gain import base_notes
from orchestrator.report.grid import ABSENT, Grid, gain, kilobytes, limits, mebibytes, milliseconds, number, percent
from orchestrator.report.pareto import pareto_grid
from orchestrator.report.regret import regret_lines
from orchestrator.report.searched import search_line, shortened
from orchestrator.report.settings import common_in, common_notes, setting_name
from orchestrator.report.sharing import sharing_grid

LEAST_TEXT_WIDTH: Final = 18
"""A text column narrower than this folds into a ribbon that no one reads."""

_GAP: Final = 1

COMPARISON_NOTE: Final = (
    "GPU-s: GPU-seconds held per trial, its part of shared stages included; tok/ans, ms/ans: tokens of an answer, and "
    "the median time to it."
)
OUTCOME_NOTE: Final = (
    "p95 ms: time to an answer, 95th percentile; 1st ms: to its first token; tok/s: tokens behind that a second; KV B: "
    "bytes of cache a token; kB: the weights; MiB: peak memory of the last stage."
)
ACTIVE_NOTE: Final = "active: parameters that a token is multiplied by."
LOAD_NOTE: Final = "load p95 ms: as p95 ms, with all requests at once."

CPU_NOTE: Final = (
    "device_kind=cpu: one CPU core stands in for a GPU, so a GPU-second is a core-second and a GPU-hour a core-hour."
)


def comparison_grid(document: Document) -> Grid:
    """One row per algorithm and setting: means over seeds, the best first within an algorithm."""
    header = ("algorithm", "setting", "seeds", "accuracy %", "95 %", "gain", "GPU-s", "tok/ans", "ms/ans")
    common = common_in(document)
    rows = tuple(
        (
            entry["algorithm"],
            setting_name(entry["overrides"], common),
            str(len(entry["seeds"])),
            percent(entry["accuracy_mean"]),
            limits(entry["accuracy_low"], entry["accuracy_high"]),
            gain(entry["gain_mean"]),
            number(entry["gpu_seconds_mean"], 1),
            number(entry["tokens_per_answer_mean"], 1),
            milliseconds(entry["time_to_answer_p50_s_mean"]),
        )
        for entry in _settings(document)
    )
    title = "Comparison on held-out test problems (means over seeds, interval over seeds)"
    notes = (COMPARISON_NOTE, *base_notes(document["base"]), *common_notes(document))
    return Grid(title, header, rows, frozenset(header[2:]), notes)


def outcome_grid(document: Document) -> Grid:
    """What the answers of each setting cost whoever asks, in the order of `comparison_grid`: time, bytes of cache a
    token, numbers of the model (and of those active where that is another number), its weights, its peak memory."""
    common = common_in(document)
    under_load = any(entry["time_to_answer_load_p95_s_mean"] is not None for entry in document["settings"])
    idle = any(entry["params_active_mean"] != entry["params_total_mean"] for entry in document["settings"])
    header = (
        *("algorithm", "setting", "p95 ms", "1st ms", "tok/s", "KV B", "params"),
        *(("active",) if idle else ()),
        *("kB", "MiB"),
        *(("load p95 ms",) if under_load else ()),
    )
    rows = tuple(
        (
            entry["algorithm"],
            setting_name(entry["overrides"], common),
            milliseconds(entry["time_to_answer_p95_s_mean"]),
            milliseconds(entry["time_to_first_token_s_mean"]),
            number(entry["decode_tokens_per_s_mean"], 0),
            number(entry["kv_bytes_per_token_mean"], 0),
            number(entry["params_total_mean"], 0),
            *((number(entry["params_active_mean"], 0),) if idle else ()),
            kilobytes(entry["weight_bytes_mean"]),
            mebibytes(entry["peak_memory_bytes_mean"]),
            *((milliseconds(entry["time_to_answer_load_p95_s_mean"]),) if under_load else ()),
        )
        for entry in _settings(document)
        if entry["kv_bytes_per_token_mean"] is not None
    )
    notes = (OUTCOME_NOTE, *((ACTIVE_NOTE,) if idle else ()), *((LOAD_NOTE,) if under_load else ()))
    return Grid("What answers cost (means over seeds)", header, rows, frozenset(header[2:]), notes)


def trial_grid(document: Document) -> Grid:
    """One row per trial, with the interval that its own test problems give."""
    header = ("#", "algorithm", "overrides", "state", "dev %", "acc %", "95 %", "gain", "GPU-s", "reused")
    common = common_in(document)
    rows = tuple(_trial_row(trial, common) for trial in document["trials"])
    return Grid("Trials (interval over test problems)", header, rows, frozenset({"#", *header[4:]}))


def throughput_grid(document: Document) -> Grid:
    """The throughput numbers, each with the line that says how it is computed."""
    rows = tuple(
        (name, _plain_number(value), document["throughput_explained"][name])
        for name, value in document["throughput"].items()
    )
    return Grid("Throughput", ("metric", "value", "how it is computed"), rows, frozenset({"value"}))


def setting_grids(document: Document) -> tuple[Grid, ...]:
    """All that is said of settings: how they compare, what their answers cost, and which of them nobody beats."""
    return comparison_grid(document), outcome_grid(document), pareto_grid(document)


def heading(document: Document) -> str:
    """One line: which study, how long, what became of its trials."""
    study = document["study"]
    return f"Study {study['name']} ({study['id']}): {outcome(document)}"


def outcome(document: Document) -> str:
    """What became of the trials and how long it took: `14 completed, 2 pruned; 156 s`."""
    study = document["study"]
    states = ", ".join(f"{count} {state}" for state, count in study["trials_by_state"].items() if count)
    counts = study["trials_by_state"]
    ended = "" if study["ended_at"] is not None else " so far"
    if counts["paused"] and not counts["queued"] + counts["running"]:
        ended = " since it was submitted, its pause included"
    return f"{states or 'no trials'}; {study['seconds']:.0f} s{ended}"


def eta_lines(document: Document) -> list[str]:
    """How good the predictions of starts and ends were, a line each; none where nothing was predicted."""
    return [
        f"ETA: first predicted {what}s of {part['count']} trials were off by {part['mean_s']:.1f} s on average (median "
        f"{part['median_s']:.1f}, 9 in 10 within {part['p90_s']:.1f} s){_of_lead_time(part)}."
        for what, part in ((name, document["eta"][name]) for name in ("start", "end"))
        if part["count"]
    ]


def _of_lead_time(part: Mapping[str, Any]) -> str:
    relative = part["median_relative"]
    return "" if relative is None else f", in the median {100 * relative:.0f} % of the time they looked ahead"


def estimate_lines(document: Document) -> list[str]:
    """How good the estimates of memory and duration were, a line each; none where nothing was measured."""
    estimates = document["estimates"]
    lines = [
        f"Memory, estimate ({part['source'] or 'unknown'}) / measured peak: {part['ratio_median']:.2f} {_of_runs(part)}"
        + (f", from {part['ratio_low']:.2f} to {part['ratio_high']:.2f}." if part["runs"] > 1 else ".")
        for part in estimates["memory_by_source"]
    ]
    duration, busy = estimates["duration"], estimates["utilisation"]
    if duration["runs"]:
        inside = "" if duration["inside"] is None else f"; {100 * duration['inside']:.0f} % within their 90 % interval"
        worst = f", {100 * duration['error_worst']:.0f} % at worst" if duration["runs"] > 1 else ""
        lines.append(
            f"Duration, as expected at the start: off by {100 * duration['error_median']:.0f} % {_of_runs(duration)}"
            f"{worst}{inside}."
        )
    if busy["runs"]:
        where = f"in the mean of {busy['runs']} runs" if busy["runs"] > 1 else "in 1 run"
        lines.append(f"Utilisation: busy for {100 * busy['mean']:.0f} % of the share of devices held, {where}.")
    return lines


def _of_runs(part: Mapping[str, Any]) -> str:
    return f"in the median of {part['runs']} runs" if part["runs"] > 1 else "in 1 run"


def failures(document: Document) -> list[tuple[str, str]]:
    """Of every failed trial: its name and the last lines of its error."""
    return [
        (f"#{trial['number']} {trial['algorithm']}", "\n".join(trial["error"].strip().splitlines()[-3:]))
        for trial in document["trials"]
        if trial["state"] == "failed"
    ]


def render(document: Document) -> RenderableType:
    """The whole report for a terminal of any width: long texts fold, numbers never do."""
    parts: list[RenderableType] = [Text(heading(document), style="bold")]
    if document["study"]["device_kind"] == "cpu":
        parts.append(Text(CPU_NOTE, style="yellow"))
    for grid in (*setting_grids(document), trial_grid(document)):
        if grid.rows:
            parts += ["", _Fitting(grid)]
    parts += ["", _Fitting(throughput_grid(document)), "", *(Text(line, style="dim") for line in eta_lines(document))]
    if (grid := sharing_grid(document.get("sharing", ()))).rows:
        parts += [_Fitting(grid), ""]
    if lines := regret_lines(document.get("pruning_regret")):
        parts += [Text("Early stopping", style="italic"), *(Text(line, style="dim") for line in lines), ""]
    if lines := estimate_lines(document):
        parts += [Text("Estimates", style="italic"), *(Text(line, style="dim") for line in lines), ""]
    if search := document.get("search"):
        parts.append(Text(f"Search: {search_line(search)}."))
    for name, error in failures(document):
        parts.append(Text(f"{name} failed: {error}", style="red"))
    headline, *sentences = document["verdict"]["sentences"]
    parts += [Text(headline, style="bold"), *(Text(sentence) for sentence in sentences)]
    if notes := document["verdict"]["notes"]:
        parts += ["", *(Text(note, style="dim") for note in notes)]
    return Group(*parts)


def print_tables(document: Document, console: Console) -> None:
    """Write the report to `console`."""
    console.print(render(document))


def print_grid(grid: Grid, console: Console) -> None:
    """Write one table to `console`, as lines where it is too narrow for it."""
    console.print(_Fitting(grid))


def markdown(document: Document) -> str:
    """The report as Markdown."""
    lines = [f"# {heading(document)}", ""]
    if document["study"]["device_kind"] == "cpu":
        lines += [CPU_NOTE, ""]
    headline, *sentences = document["verdict"]["sentences"]
    lines += [f"**{headline}**", "", *(f"- {sentence}" for sentence in sentences), ""]
    if search := document.get("search"):
        lines += [f"Search: {search_line(search)}.", ""]
    lines += [line for note in document["verdict"]["notes"] for line in (note, "")]
    grids = (*setting_grids(document), trial_grid(document), throughput_grid(document))
    for grid in (*grids, sharing_grid(document.get("sharing", ()))):
        if grid.rows:
            lines += [f"## {grid.title}", "", *_markdown_table(grid), ""]
            lines += [line for note in grid.notes for line in (note, "")]
    lines += [line for eta in eta_lines(document) for line in (eta, "")]
    if regret := regret_lines(document.get("pruning_regret")):
        lines += ["## Early stopping", "", *(f"- {line}" for line in regret), ""]
    if estimates := estimate_lines(document):
        lines += ["## Estimates", "", *(f"- {line}" for line in estimates), ""]
    for name, error in failures(document):
        lines += [f"**{name} failed**", "", "```", error, "```", ""]
    return "\n".join(lines)


def _settings(document: Document) -> list[Mapping[str, Any]]:
    return sorted(document["settings"], key=lambda entry: (entry["algorithm"], -entry["accuracy_mean"]))


def _trial_row(trial: Mapping[str, Any], common: Collection[str]) -> tuple[str, ...]:
    # What an unfinished trial carries are the numbers of the stage before: not its own result.
    metrics = trial["metrics"] if trial["state"] == "completed" else {}
    overrides = [text for text in trial["overrides"] if text not in common and not text.startswith("algorithm=")]
    return (
        str(trial["number"]),
        trial["algorithm"],
        shortened(overrides) or ABSENT,
        trial["state"],
        percent(metrics.get("dev_accuracy")),
        percent(metrics.get("accuracy")),
        limits(metrics.get("accuracy_low"), metrics.get("accuracy_high")),
        gain(trial["gain"]),
        number(trial["gpu_seconds"], 1),
        str(len(trial["reused_stages"])),
    )


class _Fitting:
    """A grid as a table where it fits, and otherwise as a line of names and values per row."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._least_width() <= options.max_width:
            yield _rich(self._grid)
        else:
            yield from self._lines()
        yield from (Text(note, style="dim") for note in self._grid.notes)

    def _lines(self) -> Iterator[Text]:
        yield Text(self._grid.title, style="italic")
        for row in self._grid.rows:
            cells = zip(self._grid.header, row, strict=True)
            texts = [cell if name not in self._grid.numbers else f"{name} {cell}" for name, cell in cells]
            yield Text("- " + "  ".join(text for text in texts if text))

    def _least_width(self) -> int:
        """Numbers whole, texts folded no narrower than their longest word or `LEAST_TEXT_WIDTH`."""
        width = 0
        for index, name in enumerate(self._grid.header):
            cells = [name, *(row[index] for row in self._grid.rows)]
            longest = max(len(cell) for cell in cells)
            width += _GAP + (longest if name in self._grid.numbers else min(longest, LEAST_TEXT_WIDTH))
        return width


def _rich(grid: Grid) -> Table:
    table = Table(
        title=grid.title,
        title_justify="left",
        header_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for name in grid.header:
        if name in grid.numbers:
            table.add_column(name, justify="right", no_wrap=True)
        else:
            table.add_column(name, overflow="fold")
    table.padding = (0, 0)
    for row in grid.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _markdown_table(grid: Grid) -> list[str]:
    rule = ["---:" if name in grid.numbers else "---" for name in grid.header]
    cells: Sequence[Sequence[str]] = [grid.header, rule, *grid.rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]


def _plain_number(value: float) -> str:
    if value == int(value):
        return f"{value:.0f}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.1f}"
