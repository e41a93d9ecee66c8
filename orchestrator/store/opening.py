"""Opening the store of a home, and finding a study in it, with refusals that a person can act upon."""

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from orchestrator.config import ConfigError
from orchestrator.home import HOME_VARIABLE, STORE_VARIABLE, Home
from orchestrator.ports import Store
from orchestrator.schema import Study
from orchestrator.store.database import DatabaseStore
from orchestrator.store.failures import reason
from orchestrator.store.migrate import NewerStore


def open_store(home: Home) -> DatabaseStore:
    """The home's store. Raises ConfigError where nothing was ever run."""
    if not home.has_store:
        raise ConfigError(HOME_VARIABLE, home.root, "no study was run here; start one with `orchestrator run`")
    return usable_store(home)


def usable_store(home: Home) -> DatabaseStore:
    """The home's store, made if missing. Raises ConfigError if it can't be opened as one."""
    try:
        # An address may hold a password.
        where = make_url(home.store_url).render_as_string()
    except ArgumentError as error:
        remedy = "is no database address; write postgresql+psycopg://user@host/name, or leave it unset"
        raise ConfigError(STORE_VARIABLE, "...", remedy) from error
    try:
        return DatabaseStore(home.store_url)
    except ImportError as error:
        raise ConfigError("store", where, f"{error}; pip install 'orchestrator[postgres]'") from error
    except (SQLAlchemyError, OSError, NewerStore) as error:
        remedy = f"move it away, or set {HOME_VARIABLE} or {STORE_VARIABLE} to another"
        raise ConfigError("store", where, f"can't be used as the store ({reason(error)}); {remedy}") from error


def find_study(store: Store, study_id: str | None) -> Study:
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
