"""The report's files: what lies in the home folder and is attached to the study's parent run."""

import json
from pathlib import Path

from orchestrator.report.document import Document
from orchestrator.report.page import html_page
from orchestrator.report.table import markdown


def write_report_files(document: Document, folder: Path) -> tuple[Path, ...]:
    """Write `report.json`, `report.md` and `report.html` into `folder` (created if missing) and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.json": json.dumps(document, indent=2, allow_nan=False) + "\n",
        "report.md": markdown(document),
        "report.html": html_page(document),
    }
    paths = tuple(folder / name for name in texts)
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    return paths
