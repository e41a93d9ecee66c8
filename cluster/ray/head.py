"""Notices that a Ray cluster's head is gone. Ray itself says nothing for a minute, then ends the driver's process."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence

import ray

from orchestrator.ports import ClusterUnavailable

_CONNECT_S = 1.0
_PATIENCE_S = 3.0
"""How long the head may refuse connections [s]: a busy one still accepts them, since the kernel does that for it."""
_CHECK_EVERY_S = 0.5
_REACH_S = 5.0

Address = tuple[str, int]


def head_addresses() -> tuple[Address, ...]:
    """Where the GCS and this driver's own raylet listen. Asks the GCS."""
    context = ray.get_runtime_context()
    mine = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    return parse_address(context.gcs_address), (mine["NodeManagerAddress"], int(mine["NodeManagerPort"]))


def parse_address(address: str) -> Address:
    """Of `host:port`, with or without a scheme. Raises ValueError for another form."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host:
        raise ValueError(f"{address!r} is not of the form host:port")
    return host.strip("[]"), int(port)


def check_reachable(address: str) -> None:
    """Raises ClusterUnavailable if nobody listens at `host:port`: Ray itself would try for two minutes, aloud."""
    try:
        with contextlib.suppress(ValueError):  # "auto", or what Ray will refuse
            socket.create_connection(parse_address(address), _REACH_S).close()
    except OSError as error:
        raise no_answer(address, error) from error


def no_answer(address: str, error: Exception) -> ClusterUnavailable:
    """What to tell of an address that no cluster answers at."""
    return ClusterUnavailable(
        f"cluster.address={address!r}: no Ray cluster answers there ({error}); start one with `ray start --head`, or "
        "leave the address empty for one on this machine"
    )


class HeadWatch:
    """Looks, in a thread of its own, whether somebody listens at each of `addresses`; calls `lost` once if not, with
    the reason and the time since when nobody does [s since the epoch]. The last address is this driver's own raylet's.
    """

    def __init__(self, addresses: Sequence[Address], lost: Callable[[str, float], None]) -> None:
        self._addresses = tuple(addresses)
        self._lost = lost
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray-head", daemon=True)
        self._thread.start()

    def answers(self) -> bool:
        """Whether somebody listens everywhere now; takes a second per address at most."""
        return not self._silent()

    def close(self) -> None:
        """Stop looking; returns once `lost` is not running and will not be called."""
        self._closing.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        heard_at, since = time.monotonic(), time.time()
        while not self._closing.wait(_CHECK_EVERY_S):
            silent = self._silent()
            if not silent:
                heard_at, since = time.monotonic(), time.time()
            elif time.monotonic() - heard_at >= _PATIENCE_S:
                self._lost(f"the Ray head is gone: nobody answers at {silent} any more", self._died_at(since))
                return

    def _died_at(self, since: float) -> float:
        """When agents ended: they end with their raylet, but not with the GCS. It was last heard at `since`."""
        host, port = self._addresses[-1]
        try:
            socket.create_connection((host, port), _CONNECT_S).close()
        except OSError:
            return since + _CHECK_EVERY_S
        return time.time()

    def _silent(self) -> str:
        """The first address at which nobody listens, "" if there is none."""
        for host, port in self._addresses:
            try:
                socket.create_connection((host, port), _CONNECT_S).close()
            except OSError:
                return f"{host}:{port}"
        return ""
