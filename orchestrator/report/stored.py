"""Reports from the store: of any study, at any time, by whichever process."""

import fcntl
import json
import sys
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table

from orchestrator.home import Home
from orchestrator.report.document import build_report
from orchestrator.report.table import print_tables
from orchestrator.store.opening import find_study, open_store


def print_report(study_id: str | None, home: Home, *, as_json: bool) -> None:
    """Print the comparison of a study, as it stands if it still runs."""
    store = open_store(home)
    study = find_study(store, study_id)
    now = datetime.now(UTC).timestamp()
    document = build_report(study, store.trials(study.study_id), store.allocations(study.study_id), now)
    store.close()
    if as_json:
        json.dump(document, sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        print_tables(document, Console())


def print_studies(home: Home) -> None:
    """Print one row per study."""
    store = open_store(home)
    table = Table(box=None, pad_edge=False, header_style="bold")
    # An id is what the other commands want, so it is never cut.
    table.add_column("study", no_wrap=True)
    for column in ("submitted (UTC)", "decided", "state"):
        table.add_column(column)
    for study in store.studies():
        trials = store.trials(study.study_id)
        over = all(trial.state.terminal for trial in trials)
        table.add_row(
            study.study_id,
            datetime.fromtimestamp(study.submitted_at, UTC).strftime("%Y-%m-%d %H:%M:%S"),
            f"{sum(trial.state.decided for trial in trials)}/{len(trials)}",
            "over" if over else _unfinished(home, study.study_id),
        )
    store.close()
    Console().print(table)


def _unfinished(home: Home, study_id: str) -> str:
    """Whether a process of this home runs the study. Looks without touching the lock's age, which `resume` reads."""
    try:
        with home.lock_path(study_id).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return "running elsewhere, or interrupted"
    except BlockingIOError:
        return "running"
    return "interrupted"
