"""Runs functions in processes forked from a preloaded server, as the platform does: DeepSpeed is process-global."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["experiments.preload"])
TIMEOUT_S = 120


def run_in_child(function: Any, *args: Any) -> Any:
    return run_gang(function, [args])[0]


def run_gang(function: Any, calls: list[tuple[Any, ...]]) -> list[Any]:
    """One process per call, at the same time; their results in order."""
    with ProcessPoolExecutor(len(calls), mp_context=CONTEXT) as pool:
        futures = [pool.submit(function, *args) for args in calls]
        return [future.result(TIMEOUT_S) for future in futures]
