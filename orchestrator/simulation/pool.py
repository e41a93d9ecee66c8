"""Many simulated runs at once: a pool of clean processes that import what a run needs, and nothing else.

A process ends with whoever started it, also when that was killed, and leaves Ctrl-C to it.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import forkserver, resource_tracker

from orchestrator.simulation.composing import ComposedRun
from orchestrator.simulation.results import Result
from orchestrator.simulation.runner import simulate

# Imported once, by the process that all others are forked from.
_PRELOAD = ["orchestrator.simulation.pool", "orchestrator.cli"]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    runs: Sequence[ComposedRun], *, jobs: int, skip_bad_rows: bool, done: Callable[[ComposedRun, Result], None]
) -> list[Result]:
    """The results in the order of the runs, `jobs` at a time; with 1 they run in this process. `done` is told of each
    as it comes.

    Raises what a run raises (see `runner.simulate`). Then, and on Ctrl-C, the processes are ended.
    """
    workers = min(jobs, len(runs))
    if workers <= 1:
        return [_told(run, _simulate(run, skip_bad_rows), done) for run in runs]
    # A run computes on one core; numpy in each process would take them all.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    _start_server()
    results: dict[int, Result] = {}
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_belong_to_parent) as pool:
        try:
            submitted: dict[Future[Result], int] = {
                pool.submit(_simulate, run, skip_bad_rows): index for index, run in enumerate(runs)
            }
            for future in as_completed(submitted):
                index = submitted[future]
                results[index] = _told(runs[index], future.result(), done)
        except BaseException:
            _end_processes(pool)
            raise
    return [results[index] for index in range(len(runs))]


def _simulate(run: ComposedRun, skip_bad_rows: bool) -> Result:
    return simulate(run.config, swept=run.swept, skip_bad_rows=skip_bad_rows)


def _told(run: ComposedRun, result: Result, done: Callable[[ComposedRun, Result], None]) -> Result:
    done(run, result)
    return result


def _start_server() -> None:
    """With Ctrl-C held back: the server, and all that come from it, never hear of one, not even while they import."""
    # What the server starts otherwise, and lets Ctrl-C through again thereby.
    resource_tracker.ensure_running()
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _belong_to_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.join,), daemon=True).start()


def _end_with(parent_ends: Callable[[], object]) -> None:
    parent_ends()
    os._exit(1)


def _end_processes(pool: ProcessPoolExecutor) -> None:
    for process in multiprocessing.active_children():
        with contextlib.suppress(OSError):
            process.terminate()
    pool.shutdown(wait=False, cancel_futures=True)
    # A server that still imports would then fork for whoever asked before, and that one find nobody.
    server: int | None = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    if server is not None:
        with contextlib.suppress(OSError):
            os.kill(server, signal.SIGTERM)
