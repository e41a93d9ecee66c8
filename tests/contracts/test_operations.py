"""One suite for every `control.operations.Operations`: carried out on the store, and asked of a service over HTTP."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.access.app import create_app
from orchestrator.access.server import HttpServer
from orchestrator.access.tokens import new_token
from orchestrator.config import AccessConfig, ConfigError
from orchestrator.control.direct import DirectOperations
from orchestrator.control.operations import Operations
from orchestrator.control.remote import RemoteOperations
from orchestrator.home import Home
from orchestrator.ports import Store
from orchestrator.schema import CommandKind, Role, TrialState
from orchestrator.store.database import DatabaseStore
from tests.contracts.databases import OnMigratedSqlite
from tests.unit.orchestrator.rig import Rig

AUTHOR = "ada"
# Small enough to be read within a second.
TASK = ["task.size=1500", "task.split.supervised=100", "task.split.dev=50", "task.split.test=50"]


class OperationsContract(OnMigratedSqlite):
    """Subclasses give an `operations` fixture on `store` and `home`. A simulated cluster serves the store."""

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        store = DatabaseStore(url)
        yield store
        store.close()

    @pytest.fixture
    def home(self, tmp_path: Path) -> Home:
        home = Home(tmp_path / "home")
        home.prepare()
        return home

    @pytest.fixture
    def rig(self, store: Store) -> Rig:
        return Rig(store=store, devices=1, start_at=time.time())

    def answered(self, rig: Rig, operations: Operations, command_id: int) -> str:
        """The answer of a command that is done, after some cycles."""
        for _ in range(10):
            rig.cycle(0.0)
        answer = operations.answer(command_id)
        assert answer.answered_at is not None
        assert answer.ok, answer.answer
        return answer.answer

    def test_a_submitted_study_is_queued_with_its_trials(self, operations: Operations, store: Store, rig: Rig) -> None:
        submitted = operations.submit([*TASK, "seed=0,1"])
        assert submitted.trials == 2
        assert [trial.variant.seed for trial in store.trials(submitted.study_id)] == [0, 1]
        self.answered(rig, operations, submitted.command_id)
        assert rig.states(submitted.study_id)[0] is TrialState.RUNNING

    def test_what_cant_run_is_refused_by_name_and_leaves_nothing(self, operations: Operations, store: Store) -> None:
        for override, refusal in (
            ("optimizer.lr=-1", r"^optimizer\.lr=-1"),
            ("no.such.key=1", r"^no\.such\.key="),
            ("modle=decoder", r"^modle="),
            ("seed", "^override="),
        ):
            with pytest.raises(ConfigError, match=refusal):
                operations.submit([override])
        assert store.studies() == []

    def test_a_command_is_open_until_it_has_taken_effect(self, operations: Operations, rig: Rig) -> None:
        rig.submit(2)
        command_id = operations.command(CommandKind.PAUSE, "study-1")
        asked = operations.answer(command_id)
        assert (asked.kind, asked.target, asked.author) == (CommandKind.PAUSE, "study-1", AUTHOR)
        assert asked.answered_at is None
        self.answered(rig, operations, command_id)
        assert rig.states() == [TrialState.PAUSED] * 2

    def test_a_trial_is_paused_resumed_cancelled_and_tried_again(self, operations: Operations, rig: Rig) -> None:
        rig.submit(1)
        for kind, state in (
            (CommandKind.PAUSE, TrialState.PAUSED),
            (CommandKind.RESUME, TrialState.RUNNING),
            (CommandKind.CANCEL, TrialState.CANCELLED),
            (CommandKind.RETRY, TrialState.RUNNING),
        ):
            self.answered(rig, operations, operations.command(kind, "study-1-0000"))
            assert rig.states() == [state]

    def test_no_target_means_the_last_study(self, operations: Operations, rig: Rig) -> None:
        rig.submit(1, "older")
        rig.cycle_until(rig.cluster.now() + 1)
        rig.submit(1, "newer")
        assert operations.answer(operations.command(CommandKind.PAUSE, "")).target == "newer"
        assert operations.report("")["study"]["id"] == "newer"

    def test_what_is_not_there_is_refused(self, operations: Operations, rig: Rig) -> None:
        rig.submit(1)
        refused = (
            lambda: operations.command(CommandKind.PAUSE, "nothing"),
            lambda: operations.clone("nothing", ["optimizer.lr=0.5"], warm=False),
            lambda: operations.extend("nothing", 5000),
            lambda: operations.answer(12345),
            lambda: operations.status("nothing"),
            lambda: operations.explain("nothing"),
            lambda: operations.report("nothing"),
            lambda: operations.logs("nothing", "", 0),
        )
        for call in refused:
            with pytest.raises(ConfigError, match=r"nothing|12345|no such"):
                call()

    def test_without_a_study_the_last_one_is_refused(self, operations: Operations) -> None:
        for call in (lambda: operations.command(CommandKind.PAUSE, ""), lambda: operations.report("")):
            with pytest.raises(ConfigError, match=r"^study="):
                call()

    def test_a_clone_is_a_further_trial_with_what_was_changed(
        self, operations: Operations, store: Store, rig: Rig
    ) -> None:
        submitted = operations.submit([*TASK, "seed=3"])
        parent = f"{submitted.study_id}-0000"
        self.answered(rig, operations, operations.clone(parent, ["optimizer.lr=0.5"], warm=False))
        first, second = store.trials(submitted.study_id)
        assert second.cloned_from == parent
        changed = {"optimizer": {**first.variant.config["optimizer"], "lr": 0.5}}
        assert second.variant.config["optimizer"] == changed["optimizer"]
        assert second.variant.seed == 3

    def test_a_clone_that_cant_run_is_refused(self, operations: Operations) -> None:
        trial_id = f"{operations.submit(TASK).study_id}-0000"
        for override in ("optimizer.lr=-1", "seed=0,1", "cluster.devices=3", "no.such.key=1"):
            with pytest.raises(ConfigError):
                operations.clone(trial_id, [override], warm=False)

    def test_an_extension_is_a_larger_budget(self, operations: Operations, store: Store, rig: Rig) -> None:
        submitted = operations.submit([*TASK, "algorithm.max_steps=10"])
        trial_id = f"{submitted.study_id}-0000"
        self.answered(rig, operations, submitted.command_id)
        for too_small in (1, 10):
            with pytest.raises(ConfigError, match=f"^max_steps={too_small}: "):
                operations.extend(trial_id, too_small)
        self.answered(rig, operations, operations.extend(trial_id, 20))
        assert store.trial(trial_id).variant.stages[-1].budget_steps == 20

    def test_the_status_is_of_everything_a_study_or_a_trial(self, operations: Operations, rig: Rig) -> None:
        rig.submit(2, "one")
        rig.submit(1, "two")
        rig.cycle(0.0)
        shown = {target: operations.status(target) for target in ("", "one", "one-0001")}
        assert [s["id"] for s in shown[""]["studies"]] == ["one", "two"]
        assert [t["id"] for t in shown["one"]["trials"]] == ["one-0000", "one-0001"]
        assert [t["id"] for t in shown["one-0001"]["trials"]] == ["one-0001"]

    def test_studies_come_oldest_first(self, operations: Operations, rig: Rig) -> None:
        rig.submit(1, "b")
        rig.cycle_until(rig.cluster.now() + 1)
        rig.submit(1, "a")
        assert [study["id"] for study in operations.studies()] == ["b", "a"]

    def test_why_a_trial_waits_is_told_in_words(self, operations: Operations, rig: Rig) -> None:
        rig.submit(2)
        rig.cycle(0.0)
        lines = operations.explain("study-1-0001")
        assert any("study-1-0001" in line for line in lines)
        assert all(isinstance(line, str) for line in lines)

    def test_a_log_is_read_part_by_part(self, operations: Operations, store: Store, home: Home, rig: Rig) -> None:
        rig.submit(1)
        rig.cycle(0.0)
        (line,) = store.allocations("study-1")
        log = home.root / "logs" / f"{line.bundle_id}.log"
        log.write_text("step 1: loss ½\n", encoding="utf-8")
        first = operations.logs("study-1-0000", "", 0)
        assert (first.text, first.bundle_id, first.over) == ("step 1: loss ½\n", line.bundle_id, False)
        with log.open("a") as more:
            more.write("step 2\n")
        assert operations.logs("study-1-0000", first.bundle_id, first.offset).text == "step 2\n"


class TestDirect(OperationsContract):
    @pytest.fixture
    def operations(self, store: Store, home: Home) -> Operations:
        return DirectOperations(store, home, AUTHOR)


class TestRemote(OperationsContract):
    @pytest.fixture
    def operations(self, store: Store, home: Home) -> Iterator[Operations]:
        token = new_token(store, AUTHOR, Role.ADMIN, "default")
        access = AccessConfig(name="test", import_roots=["experiments"])
        with HttpServer(create_app(store, home, access), "127.0.0.1", 0) as server:
            operations = RemoteOperations(server.url, token)
            yield operations
            operations.close()

    def test_documents_are_those_of_the_store(self, operations: Operations, store: Store, home: Home, rig: Rig) -> None:
        rig.submit(2)
        rig.cycle_until(rig.cluster.now() + 5)
        direct = DirectOperations(store, home, AUTHOR)
        assert timeless(operations.status("")) == timeless(direct.status(""))
        assert timeless(operations.studies()) == timeless(direct.studies())
        assert timeless(operations.report("")) == timeless(direct.report(""))
        assert operations.explain("study-1-0001") == direct.explain("study-1-0001")


def timeless(data: Any) -> Any:
    """A document with the kinds of its numbers only: they are reckoned from when it was asked for."""
    if isinstance(data, Mapping):
        return {key: timeless(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [timeless(value) for value in data]
    return "number" if isinstance(data, int | float) else data
