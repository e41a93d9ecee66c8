"""Opening a home's store, and what is said where that is impossible."""

from pathlib import Path

import pytest

from orchestrator.config import ConfigError
from orchestrator.events import RecordStudy
from orchestrator.home import STORE_VARIABLE, Home
from orchestrator.store.memory import MemoryStore
from orchestrator.store.opening import find_study, open_store, usable_store
from tests.unit.orchestrator.builders import study


def test_a_home_in_which_nothing_ran_has_no_store_to_open(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no study was run here"):
        open_store(Home(tmp_path))


def test_a_store_that_is_not_a_database_is_refused(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.store_path.write_text("hello")
    with pytest.raises(ConfigError, match=r"^store=sqlite:.*store.db: can't be used as the store .*not a database"):
        open_store(home)


def test_an_address_that_is_none_is_refused_without_repeating_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORE_VARIABLE, "hunter2")
    with pytest.raises(ConfigError, match="is no database address") as caught:
        usable_store(Home(tmp_path))
    assert "hunter2" not in str(caught.value)


def test_a_server_that_does_not_answer_is_refused_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STORE_VARIABLE, "postgresql+psycopg://me:hunter2@127.0.0.1:9/store")
    with pytest.raises(ConfigError, match="can't be used as the store") as caught:
        usable_store(Home(tmp_path))
    assert "hunter2" not in str(caught.value)


def test_a_study_is_looked_for_among_those_there_are(tmp_path: Path) -> None:
    store = usable_store(Home(tmp_path))
    with pytest.raises(ConfigError, match="there is none yet"):
        find_study(store, None)
    store.close()


def test_of_several_studies_the_last_is_meant_unless_one_is_named() -> None:
    store = MemoryStore()
    store.apply([RecordStudy(study=study("new", at=2.0)), RecordStudy(study=study("old", at=1.0))])
    assert find_study(store, None).study_id == "new"
    assert find_study(store, "old").study_id == "old"
    with pytest.raises(ConfigError, match="no such study; the last ones are: old, new"):
        find_study(store, "other")
