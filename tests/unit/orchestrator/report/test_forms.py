"""The document as tables, Markdown and a page."""

import html
import io
import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.colors import ALGORITHM_COLORS
from orchestrator.report import table
from orchestrator.report.document import build_report
from orchestrator.report.files import write_report_files
from orchestrator.report.page import html_page
from orchestrator.report.table import CPU_NOTE, markdown, print_tables
from orchestrator.schema import DeviceKind, TrialState
from orchestrator.throughput import EXPLANATIONS
from tests.unit.orchestrator.report.studies import a_study, a_trial, ledger, seeds


def a_document() -> dict:
    trials = seeds("sft", [0.451, 0.5]) + seeds("grpo", [0.6, 0.66], first=2)
    trials.append(
        replace(
            a_trial(4, "sft", 9, 0.0), state=TrialState.FAILED, error="Traceback\nValueError: <bad> [x]", metrics={}
        )
    )
    return build_report(a_study(), trials, ledger(), now=1e9)


def printed(document: dict, width: int) -> str:
    buffer = io.StringIO()
    print_tables(document, Console(file=buffer, width=width))
    return buffer.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_it_fits_the_terminal(width: int) -> None:
    assert max(len(line) for line in printed(a_document(), width).splitlines()) <= width


def test_at_100_columns_all_numbers_are_whole() -> None:
    text = printed(a_document(), 100)
    for part in ("grpo", "63.0", "+38.0", "45.1", "40-50", "accuracy %", "ms/ans", "GPU-s", "tok/ans"):
        assert part in text
    assert "…" not in text


def test_every_throughput_number_says_how_it_is_computed() -> None:
    text = " ".join(printed(a_document(), 220).split())
    for name, explanation in EXPLANATIONS.items():
        assert name in text
        assert explanation[:40] in text


def test_a_core_that_stands_in_for_a_gpu_is_said_to() -> None:
    document = a_document()
    assert "device_kind=cpu" in printed(document, 200)
    assert CPU_NOTE in markdown(document)
    gpu = build_report(replace(a_study(), device_kind=DeviceKind.CUDA), [], [], now=0.0)
    assert "device_kind=cpu" not in printed(gpu, 200)


def test_a_failure_shows_its_last_lines() -> None:
    for text in (printed(a_document(), 100), markdown(a_document())):
        assert "ValueError: <bad> [x]" in text


def test_an_unfinished_trial_shows_no_result_of_the_stage_before() -> None:
    running = replace(a_trial(0, "sft", 0, 0.777), state=TrialState.RUNNING, stage_index=1)
    assert "77.7" not in printed(build_report(a_study(), [running], [], now=0.0), 100)


def test_markdown_tables_have_as_many_cells_in_every_row() -> None:
    document = a_document()
    document["trials"][0]["overrides"] = ["task.prompt={a}|{b}"]
    rows = [line.replace("\\|", "") for line in markdown(document).splitlines() if line.startswith("|")]
    trial_rows = [row for row in rows if row.startswith(("| # |", "| 0 |", "| 4 |"))]
    assert {row.count("|") for row in trial_rows} == {11}


class Outline(HTMLParser):
    """Collects what a page loads and what it says outside of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]


@pytest.mark.filterwarnings("default")
def test_the_page_is_one_file_that_loads_nothing_and_escapes_what_it_shows() -> None:
    page = html_page(a_document())
    outline = Outline()
    outline.feed(page)
    assert outline.loads == []
    assert outline.tags.count("table") == 4
    assert "&lt;bad&gt;" in page
    assert "<bad>" not in page
    assert "GPU-seconds held per trial" in page


def test_the_page_begins_with_who_won_and_what_the_machine_delivered() -> None:
    document = a_document()
    page = html_page(document)
    headline, *rest = document["verdict"]["text"].split(". ")
    assert f"<p>{html.escape(headline)}.</p>" in page
    assert rest
    value = table.throughput_grid(document).rows[0][1]
    assert f"<b>{value}</b>experiments per GPU-hour" in page
    parts = ('class="verdict"', 'class="figures"', "Comparison on held-out", "Accuracy against cost", "Trials (")
    assert sorted(parts, key=page.index) == list(parts)


def test_an_algorithm_has_the_colour_in_the_page_that_it_has_in_mlflow() -> None:
    page = html_page(a_document())
    assert all(ALGORITHM_COLORS[name] in page for name in ("grpo", "sft"))


def test_a_study_without_results_has_a_page_without_a_plot() -> None:
    assert len(html_page(build_report(a_study(), [], [], now=0.0))) < 10_000


@pytest.mark.filterwarnings("default")
def test_the_files_are_written_into_a_new_folder(tmp_path: Path) -> None:
    document = a_document()
    paths = write_report_files(document, tmp_path / "a" / "b")
    assert [path.name for path in paths] == ["report.json", "report.md", "report.html"]
    assert json.loads(paths[0].read_text()) == document
