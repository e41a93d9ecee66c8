"""Reports from the store: of any study, at any time, by whichever process."""

import fcntl
import json
import sys
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from orchestrator.config import ConfigError
from orchestrator.home import HOME_VARIABLE, Home
from orchestrator.report.document import build_report
from orchestrator.report.table import print_tables
from orchestrator.schema import Study
from orchestrator.store.database import DatabaseStore
from orchestrator.store.migrate import NewerStore


def find_study(store: DatabaseStore, study_id: str | None) -> Study:
    """The study of that id, or with None the last one submitted. Raises ConfigError naming those there are."""
    studies = store.studies()
    if not studies:
        raise ConfigError("study", study_id or "(last)", "there is none yet; start one with `orchestrator run`")
    if study_id is None:
        return studies[-1]
    for study in studies:
        if study.study_id == study_id:
            return study
    known = ", ".join(study.study_id for study in studies[-5:])
    raise ConfigError("study", study_id, f"no such study; the last ones are: {known}")


def open_store(home: Home) -> DatabaseStore:
    """The home's store. Raises ConfigError where nothing was ever run."""
    if not home.has_store:
        raise ConfigError("ORCHESTRATOR_HOME", home.root, "no study was run here; start one with `orchestrator run`")
    return usable_store(home)


def usable_store(home: Home) -> DatabaseStore:
    """The home's store, made if missing. Raises ConfigError if it can't be opened as one."""
    try:
        return DatabaseStore(home.store_url)
    except (SQLAlchemyError, OSError, NewerStore) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        remedy = f"can't be used as the store ({reason}); move it away, or set {HOME_VARIABLE} to another folder"
        # An address may hold a password.
        where = make_url(home.store_url).render_as_string()
        raise ConfigError("store", where, remedy) from error


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
