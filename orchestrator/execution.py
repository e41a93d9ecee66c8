"""One study in one process, from submission to final report: the rooms put together around the scheduling loop.

Implementations outside this package are named by dotted strings in the config and resolved here.
"""

import contextlib
import inspect
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from orchestrator.clock import SystemClock
from orchestrator.config import ClusterConfig, ConfigError
from orchestrator.estimate import stage_demand
from orchestrator.home import Home
from orchestrator.loop import SchedulingLoop
from orchestrator.ordering import ORDERINGS
from orchestrator.packing import PACKINGS
from orchestrator.ports import Clock, Cluster, Tracker
from orchestrator.report.document import build_report
from orchestrator.report.files import write_report_files
from orchestrator.report.live import LiveView
from orchestrator.report.progress import progress_of
from orchestrator.report.table import print_tables
from orchestrator.schema import Demand, Device, DeviceKind, Study, TrialState
from orchestrator.stopping import STOPPINGS
from orchestrator.store.opening import find_study, open_store, usable_store
from orchestrator.submission import Submission, resolve
from orchestrator.throughput import throughput
from orchestrator.tracking import build_tracker

logger = logging.getLogger(__name__)

DEVICES_TIMEOUT_S = 120.0
TRACKER_TIMEOUT_S = 60.0
# The cluster kills a bundle that is slow to stop; this only bounds the wait for its word.
STOP_TIMEOUT_S = 60.0
EXIT_DECIDED, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130

Queue = Callable[[SchedulingLoop, DeviceKind], Study]


def run_study(submission: Submission, home: Home) -> int:
    """Run a new study to its end and print its report. Returns the exit code.

    Raises ConfigError, ClusterUnavailable or TrackingUnavailable before any trial is queued.
    """
    clock = SystemClock()

    def queue(loop: SchedulingLoop, kind: DeviceKind) -> Study:
        study = submission.new_study(kind, clock.now())
        reuse = bool(submission.config["study"]["reuse_stages"])
        demands = submission.demands(kind)
        _check_memory(demands.values(), loop.state.devices.values())
        loop.submit(study, submission.variants, demands, reuse=reuse)
        return study

    return _execute(submission.config, home, clock, queue)


def resume_study(study_id: str | None, home: Home) -> int:
    """Continue the study (default: the last one) that an earlier process left undecided. Returns the exit code.

    A study that ended and has nothing undecided is left as it is, and no device is taken. Raises ConfigError if there
    is no such study, or if a process is still running it.
    """
    with contextlib.ExitStack() as stack:
        store = open_store(home)
        stack.callback(store.close)
        found = find_study(store, study_id)
        ended_at = stack.enter_context(_study_lock(home, found.study_id))
        # Read with the lock held: another `resume` may just have finished it.
        study, trials = store.study(found.study_id), store.trials(found.study_id)
        states = [trial.state for trial in trials]
        if study.ended_at is not None and all(state.decided or state is TrialState.FAILED for state in states):
            again = f"orchestrator report {study.study_id}"
            Console().print(f"{study.study_id} is over, nothing is left to do; see: {again}", soft_wrap=True)
            return EXIT_DECIDED if all(state.decided for state in states) else EXIT_FAILED
        cluster = study.config["cluster"]

        def queue(loop: SchedulingLoop, kind: DeviceKind) -> Study:
            stages = {stage.key: stage for trial in trials for stage in trial.variant.stages}
            demands = {key: stage_demand(stage, cluster, kind) for key, stage in stages.items()}
            loop.resume(study, trials, demands, ended_at)
            return study

        return _execute(study.config, home, SystemClock(), queue, locked=True)


def _execute(config: Mapping[str, Any], home: Home, clock: Clock, queue: Queue, *, locked: bool = False) -> int:
    """`locked`: the caller holds the study's lock already."""
    console = Console(highlight=False)
    home.prepare()
    tracker: Tracker = build_tracker(
        config["tracking"]["name"], uri=config["tracking"]["uri"] or home.mlflow_uri, artifacts=home.artifacts
    )
    tracker.check()
    with contextlib.ExitStack() as stack:
        store = usable_store(home)
        stack.callback(store.close)
        cluster = _build_cluster(config["cluster"], home)
        cluster.check()
        if not config["cluster"].get("address"):
            stack.enter_context(_machine_lock(console))
        stack.callback(cluster.close)
        console.print(f"starting the cluster ({config['cluster']['name']}), with the training code preloaded ...")
        cluster.start()
        loop = SchedulingLoop(
            cluster=cluster,
            store=store,
            tracker=tracker,
            clock=clock,
            ordering=ORDERINGS[config["ordering"]["name"]],
            packing=PACKINGS[config["packing"]["name"]],
            stopping=STOPPINGS[config["stopping"]["name"]],
            max_attempts=config["cluster"]["max_attempts"],
        )
        loop.wait_for_devices(DEVICES_TIMEOUT_S)
        kind = next(iter(loop.state.devices.values())).kind
        study = queue(loop, kind)
        console.print(_opening_line(loop, study), soft_wrap=True)
        with contextlib.nullcontext() if locked else _study_lock(home, study.study_id):
            interrupted = _cycle_to_the_end(loop, study, home, console, clock)
            ended_at = clock.now()
            cluster.close()
            _finish(loop, replace(study, ended_at=ended_at), home, console, tracker, clock)
            # Last, so that a study whose report or records are not out yet can still be resumed.
            loop.close_study(study.study_id, ended_at)
    states = [trial.state for trial in loop.state.study_trials(study.study_id)]
    if interrupted:
        console.print(f"interrupted; continue with: orchestrator resume {study.study_id}")
        return EXIT_INTERRUPTED
    return EXIT_DECIDED if all(state.decided for state in states) else EXIT_FAILED


def _cycle_to_the_end(loop: SchedulingLoop, study: Study, home: Home, console: Console, clock: Clock) -> bool:
    """True if Ctrl-C ended it: bundles were then given the time to checkpoint at a step boundary."""
    lock = home.lock_path(study.study_id)
    with LiveView(console) as view:

        def observe() -> None:
            os.utime(lock)
            view.update(progress_of(loop.state, study.study_id, clock.now()))

        try:
            loop.run(study.study_id, observe)
        except KeyboardInterrupt:
            loop.end_study(study.study_id, "interrupted by Ctrl-C", STOP_TIMEOUT_S)
            return True
    return False


def _finish(loop: SchedulingLoop, study: Study, home: Home, console: Console, tracker: Tracker, clock: Clock) -> None:
    trials = loop.state.study_trials(study.study_id)
    allocations = loop.state.allocations(study.study_id)
    document = build_report(study, trials, allocations, clock.now())
    files = write_report_files(document, home.report_folder(study.study_id))
    tracker.study_finished(study, throughput(trials, allocations, clock.now()), files)
    print_tables(document, console)
    if not tracker.close(TRACKER_TIMEOUT_S):
        console.print(f"warning: the tracking server did not take all records within {TRACKER_TIMEOUT_S:.0f} s")
    elif where := tracker.where_to_look(study.study_id):
        console.print(f"\nThe study in MLflow:\n  {where}", soft_wrap=True, markup=False)
    report = home.report_folder(study.study_id)
    console.print(f"The report again: orchestrator report {study.study_id}; as a page: {report}", soft_wrap=True)


def _check_memory(demands: Iterable[Demand], devices: Iterable[Device]) -> None:
    """A trial that no device could ever hold would wait for ever."""
    wanted = max(demand.memory_bytes for demand in demands)
    largest = max(device.memory_bytes for device in devices)
    if wanted > largest:
        sizes = f"a stage is estimated to need {wanted / 2**30:.1f} GiB of a device, the largest has"
        remedy = f"{sizes} {largest / 2**30:.1f}; use a smaller model or batch, or bf16"
        raise ConfigError("model", "this one", remedy)


def _opening_line(loop: SchedulingLoop, study: Study) -> str:
    trials = loop.state.study_trials(study.study_id)
    runs = {stage.key for trial in trials for stage in trial.variant.stages}
    kind = "CPU cores standing in for GPUs" if study.device_kind is DeviceKind.CPU else "GPUs"
    counts = f"{len(trials)} trials, {len(runs)} different stages, {len(loop.state.devices)} devices"
    return f"study {study.study_id}: {counts} (device_kind={study.device_kind}: {kind})"


def _build_cluster(cluster: Mapping[str, Any], home: Home) -> Cluster:
    """The implementation takes the home, the artifacts, the devices, and what its own config adds."""
    implementation = resolve(cluster["implementation"], "cluster.implementation")
    own = {name: value for name, value in cluster.items() if name not in ClusterConfig.__dataclass_fields__}
    shared = {name: cluster[name] for name in ("devices", "devices_per_trial")}
    arguments = {"home": home.root, "artifacts": home.artifacts, **shared, **own}
    try:
        inspect.signature(implementation).bind(**arguments)
    except TypeError as error:
        remedy = f"{error}; its fields are those of its constructor, and cluster={cluster['name']} has the right ones"
        raise ConfigError("cluster.implementation", cluster["implementation"], remedy) from error
    built: Cluster = implementation(**arguments)
    return built


@contextlib.contextmanager
def _machine_lock(console: Console) -> Iterator[None]:
    """Only one study at a time takes a machine's devices for itself: two would each believe to have all of them."""
    path = Path(tempfile.gettempdir()) / f"orchestrator-devices-{os.getuid()}.lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print("another run holds this machine's devices; waiting for it to end (Ctrl-C gives up)")
        lock.acquire(poll_interval=0.5)
    with lock:
        yield


@contextlib.contextmanager
def _study_lock(home: Home, study_id: str) -> Iterator[float]:
    """Held while a process runs a study. Yields when the last one that did was last alive [s since the epoch]."""
    path = home.lock_path(study_id)
    alive_at = path.stat().st_mtime if path.exists() else 0.0
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError("study", study_id, "a process is running it; watch it with `orchestrator report`") from None
    if alive_at:
        # Taking the lock touched the file; until the study is run again the earlier time stays true.
        os.utime(path, (alive_at, alive_at))
    with lock:
        yield alive_at
