"""The leader keeps the artifacts folder within its bounds, beside its scheduling cycles and with a connection of its
own to the store."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.caching import Bounds, collect, output_cache
from orchestrator.home import Home
from orchestrator.ports import StoreUnavailable
from orchestrator.store.opening import open_store

logger = logging.getLogger(__name__)

GIB = 2**30


@contextlib.contextmanager
def making_room(cache: Mapping[str, Any], home: Home, say: Callable[[str], None]) -> Iterator[None]:
    """While the caller is inside, the folder is looked at every `every_s` seconds of the config group `cache`; never if
    that sets no bound. `say` hears of what was removed."""
    if not cache.get("max_gib"):
        yield
        return
    done = threading.Event()
    bounds = Bounds(max_bytes=int(cache["max_gib"] * GIB), min_age_s=cache["min_age_s"])

    def keep() -> None:
        while not done.wait(cache["every_s"]):
            try:
                _make_room(home, bounds, say)
            except (OSError, StoreUnavailable) as error:  # the next time may do
                logger.warning("no room could be made in %s: %s", home.artifacts, error)

    thread = threading.Thread(target=keep, name="cache", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _make_room(home: Home, bounds: Bounds, say: Callable[[str], None]) -> None:
    with contextlib.closing(open_store(home)) as store:
        collected = collect(output_cache(home), store, bounds, time.time())
    if collected.removed:
        freed = (collected.bytes_before - collected.bytes_after) / GIB
        say(f"made room: {len(collected.removed)} outputs and checkpoints removed, {freed:.2f} GiB")
