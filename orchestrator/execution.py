"""`run`, `serve` and a `resume` without a service: a queue served in this process, watched, and reported."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.console import Console

from orchestrator.clock import SystemClock
from orchestrator.config import AccessConfig, ConfigError
from orchestrator.control.direct import DirectOperations
from orchestrator.control.views import report_document
from orchestrator.home import Home
from orchestrator.ports import Store, StoreUnavailable
from orchestrator.recovery import view
from orchestrator.report.live import LiveView
from orchestrator.report.progress import progress_of
from orchestrator.report.table import print_tables
from orchestrator.schema import CommandKind, DeviceKind, Study, TrialState
from orchestrator.search import is_search
from orchestrator.service.rooms import build_cluster, service_config
from orchestrator.service.serving import Service
from orchestrator.service.sharing_file import pairs_for_report
from orchestrator.state import SchedulerState
from orchestrator.state.snapshots import never_fits
from orchestrator.store.opening import find_study, open_store, usable_store
from orchestrator.submission import Submission
from orchestrator.tracking import build_tracker

EXIT_DECIDED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130
# The part of the time that showing a study may take.
LOOKING_PART = 0.05


def run_study(submission: Submission, home: Home, author: str) -> int:
    """Submit a study, serve its queue until it is over, and print its report. Returns the exit code.

    Raises ConfigError, ClusterUnavailable or TrackingUnavailable before anything is queued.
    """
    config = service_config(submission.config)
    _check(config, home)
    with _open(home) as store:
        operations = DirectOperations(store, home, author)
        submitted = operations.submit_prepared(submission)
        return _Run(config, home, store, operations, submitted.study_id).to_the_end()


def resume_study(study_id: str | None, home: Home, author: str) -> int:
    """Let a study (default: the last one) go on, and serve its queue until it is over. Returns the exit code.

    A study in which nothing is paused, waiting or running is left as it is, and no device is taken. Raises ConfigError
    if there is no such study.
    """
    store = open_store(home)
    with contextlib.closing(store):
        study = find_study(store, study_id)
        states = {trial.state for trial in store.trials(study.study_id)}
        if all(state.terminal for state in states) and (study.ended_at is not None or not is_search(study)):
            again = f"orchestrator report {study.study_id}"
            Console().print(f"{study.study_id} is over, nothing is left to do; see: {again}", soft_wrap=True)
            return EXIT_DECIDED if all(state.decided for state in states) else EXIT_FAILED
        config = service_config(study.config)
        _check(config, home)
        operations = DirectOperations(store, home, author)
        # Also where nothing is paused yet: a pause may wait in the store. It comes first, and this undoes it.
        operations.command(CommandKind.RESUME, study.study_id)
        return _Run(config, home, store, operations, study.study_id).to_the_end()


def serve(config: Mapping[str, Any], home: Home, http: tuple[str, int] | None = None) -> None:
    """Serve the home's store with a composed config until Ctrl-C or SIGTERM; also over HTTP at (host, port) if given.

    Raises as `run_study` does, and ConfigError if the address can't be had.
    """
    console = Console(highlight=False)
    service = service_config(config)
    _check(service, home)
    asked_to_stop: list[bool] = []
    with _open(home) as store:

        def on_interrupt() -> None:
            console.print(
                "stopping: what runs is checkpointed at its next step boundary and goes on with the next serve"
            )
            asked_to_stop.append(True)

        say = _say(console)
        say(f"serving {home.root}")
        with _answering_http(service["access"], home, store, http, say):
            Service(service, home, store, say).serve(lambda: bool(asked_to_stop), lambda _: None, on_interrupt)


@contextlib.contextmanager
def _answering_http(
    access: Mapping[str, Any], home: Home, store: Store, http: tuple[str, int] | None, say: Callable[[str], None]
) -> Iterator[None]:
    if http is None:
        yield
        return
    from orchestrator.access.app import create_app
    from orchestrator.access.server import HttpServer

    with HttpServer(create_app(store, home, AccessConfig(**access)), *http) as server:
        say(f"answering HTTP at {server.url}")
        yield


def _check(config: Mapping[str, Any], home: Home) -> None:
    """Whatever can be refused before a study is queued or a device is taken."""
    home.prepare()
    tracking = config["tracking"]
    build_tracker(tracking["name"], uri=tracking["uri"] or home.mlflow_uri, artifacts=home.artifacts).check()
    build_cluster(config["cluster"], home, 0).check()


@contextlib.contextmanager
def _open(home: Home) -> Iterator[Store]:
    with contextlib.closing(usable_store(home)) as store:
        yield store


def _say(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, soft_wrap=True, markup=False)


class _Run:
    """One study, served and watched in this process."""

    def __init__(
        self, config: Mapping[str, Any], home: Home, store: Store, operations: DirectOperations, study_id: str
    ) -> None:
        self._config = config
        self._home = home
        self._store = store
        self._operations = operations
        self._study_id = study_id
        self._console = Console(highlight=False)
        self._clock = SystemClock()
        self._opened = False
        self._look_again_at = float("-inf")
        self._interrupted = False
        self._state: SchedulerState | None = None
        self._refusal: ConfigError | None = None

    def to_the_end(self) -> int:
        """Serve until the study is over, or paused after Ctrl-C; print its report. The exit code."""
        service = Service(self._config, self._home, self._store, _say(self._console))
        try:
            with LiveView(self._console) as self._view:
                service.serve(self._over, self._observe, self._pause)
        except KeyboardInterrupt:
            if self._state is None:
                goes_on = f"{self._study_id} goes on; stop it with: orchestrator pause {self._study_id}"
                self._console.print(f"interrupted; if a service runs, {goes_on}", soft_wrap=True)
            raise
        if self._refusal is not None:
            raise self._refusal
        study = self._store.study(self._study_id)
        trials = self._store.trials(self._study_id)
        self._report(study)
        if self._interrupted and any(not trial.state.terminal for trial in trials):
            self._console.print(f"interrupted; continue with: orchestrator resume {self._study_id}", soft_wrap=True)
            return EXIT_INTERRUPTED
        return EXIT_DECIDED if all(trial.state.decided for trial in trials) else EXIT_FAILED

    def _over(self) -> bool:
        state = self._state
        if state is not None and self._study_id in state.studies:
            counts = state.counts[self._study_id]
            ended = state.studies[self._study_id].ended_at is not None
            return ended or (self._interrupted and not counts[TrialState.QUEUED] + counts[TrialState.RUNNING])
        try:
            return self._store.study(self._study_id).ended_at is not None
        except StoreUnavailable:
            return False

    def _pause(self) -> None:
        self._console.print("interrupted: pausing at the next step boundary (Ctrl-C again: at once)")
        self._interrupted = True
        self._operations.command(CommandKind.PAUSE, self._study_id)

    def _observe(self, leading: SchedulerState | None) -> None:
        self._state = leading
        now = self._clock.now()
        if now < self._look_again_at and not self._over():
            return
        began = time.perf_counter()
        with contextlib.suppress(StoreUnavailable):  # shown again once it is back
            self._show(leading, now)
        # Looking at a large queue must not hold up the queue.
        self._look_again_at = now + (time.perf_counter() - began) / LOOKING_PART

    def _show(self, leading: SchedulerState | None, now: float) -> None:
        state = leading
        if state is None:
            state = SchedulerState(max_attempts=1)
            view(state, self._store, now, [self._study_id])
        if self._study_id not in state.studies:
            return
        # The first points of a search are still being drawn when it is taken in.
        drawn = bool(state.counts[self._study_id]) or not is_search(state.studies[self._study_id])
        if not self._opened and state.room.devices and drawn:
            self._opened = True
            if leading is not None:
                self._refuse_what_never_fits(state)
            self._console.print(self._opening_line(state), soft_wrap=True)
        self._view.update(progress_of(state, self._study_id, now))

    def _refuse_what_never_fits(self, state: SchedulerState) -> None:
        """A service keeps such a trial waiting, for a node that may come; here nobody would come."""
        for trial in state.study_trials(self._study_id):
            if trial.state is TrialState.QUEUED and (why := never_fits(state, trial)):
                self._operations.command(CommandKind.CANCEL, self._study_id)
                name = self._config["cluster"]["name"]
                self._refusal = ConfigError("cluster", name, f"trial {trial.number} needs {why}")
                return

    def _opening_line(self, state: SchedulerState) -> str:
        study, trials = state.studies[self._study_id], state.study_trials(self._study_id)
        runs = {stage.key for trial in trials for stage in trial.variant.stages}
        kind = "CPU cores standing in for GPUs" if study.device_kind is DeviceKind.CPU else "GPUs"
        devices = _some(len(state.room.devices), "device")
        counts = f"{_some(len(trials), 'trial')}, {_some(len(runs), 'different stage')}, {devices}"
        others = [s for s in state.studies.values() if s.ended_at is None and s is not study]
        if is_search(study):
            search = study.config["search"]
            counts = f"a {search['name']} search of up to {search['trials']} trials, {devices}"
        line = f"study {study.study_id}: {counts} (device_kind={study.device_kind}: {kind})"
        return f"{line}; other studies in this queue: {len(others)}" if others else line

    def _report(self, study: Study) -> None:
        now = self._clock.now()
        document = report_document(self._store, study, now, pairs_for_report(self._home, study, now))
        print_tables(document, self._console)
        tracking = self._config["tracking"]
        tracker = build_tracker(
            tracking["name"], uri=tracking["uri"] or self._home.mlflow_uri, artifacts=self._home.artifacts
        )
        if where := tracker.where_to_look(study.study_id):
            self._console.print(f"\nThe study in MLflow:\n  {where}", soft_wrap=True, markup=False)
        page = self._home.report_folder(study.study_id)
        again = f"The report again: orchestrator report {study.study_id}"
        self._console.print(f"{again}; as a page: {page}", soft_wrap=True)


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
