"""A Ray of our own on this machine: started for one driver, gone with it, quiet on the terminal."""

import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

import psutil
import ray
from ray._private.node import Node

from cluster.inventory import Inventory
from cluster.reaper import Reaper
from orchestrator.schema import DeviceKind

_OBJECT_STORE_BYTES = 80 * 1024 * 1024  # next to Ray's minimum: bundles pass files, not objects
_LONGEST_TEMP_FOLDER = 40  # Ray puts Unix sockets some 60 characters below it, of 107 that the kernel takes
_KILL_WAIT_S = 5.0
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # its absence makes ray.init print a FutureWarning
}
_SYSTEM_CONFIG = {
    # Ray runs workers at niceness 15; the agent must be heard while training keeps every core busy.
    "worker_niceness": 0,
    # One actor per node is all that is asked for; idle workers would cost a start's worth of CPU time each.
    "enable_worker_prestart": False,
    "prestart_worker_first_driver": False,
}


class EmbeddedRay:
    """`ray.init` with `devices` devices of this machine, and the end of it.

    Make it in a thread that outlives the cluster (the main one): Ray's processes die with the thread that made them. A
    KeyboardInterrupt is heard when Ray's own code returns, within seconds; then nothing is left.
    """

    def __init__(self, inventory: Inventory, devices: int) -> None:
        parent = tempfile.gettempdir()
        self._folder = tempfile.mkdtemp(prefix="ray-", dir=parent if len(parent) <= _LONGEST_TEMP_FOLDER else "/tmp")
        self._reaper: Reaper | None = None
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        gpus = devices if inventory.kind is DeviceKind.CUDA else 0
        try:
            with _minimal_ray():
                ray.init(
                    num_cpus=max(devices, len(inventory.cores)) if gpus else devices,
                    num_gpus=gpus,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    _node_ip_address="127.0.0.1",
                    _temp_dir=self._folder,
                    _system_config=_SYSTEM_CONFIG,
                )
            # The kernel ends Ray's daemons with this process, but not the two that the raylet has started: those would
            # spend a minute telling the dead GCS about it.
            pids = [process.pid for root in self._roots() for process in root.children(recursive=True)]
            self._reaper = Reaper(self._folder, pids)
        except BaseException:
            self.stop()
            raise

    def kill(self) -> None:
        """End Ray's processes by force; agents and bundles end with them."""
        for root in self._roots():
            with contextlib.suppress(psutil.NoSuchProcess):
                for process in [root, *root.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                root.wait(_KILL_WAIT_S)

    def stop(self) -> None:
        """End Ray's processes and remove what they wrote."""
        ray.shutdown()
        self.kill()  # an interrupted ray.init leaves processes that ray.shutdown doesn't know of yet
        if self._reaper is not None:
            self._reaper.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _roots(self) -> list[psutil.Process]:
        """Ray's processes that this one has started: they name the folder."""
        roots = []
        for process in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(self._folder in argument for argument in process.cmdline()):
                    roots.append(process)
        return roots


@contextlib.contextmanager
def _minimal_ray() -> Iterator[None]:
    """Have `ray.init` start only what places and runs actors: the GCS, the raylet and its two agents.

    Ray has no public switch for this. Even with `include_dashboard=False` it starts the dashboard's process, and where
    the dashboard's dependencies are installed it imports them in three processes, one after another, waiting for each.
    Without them, and without the autoscaler and the log monitor (one node, no logs sent to the driver), `ray.init`
    takes a third of the time: cluster/ray/README.md has the numbers.
    """
    absent = {"ray.dashboard.optional_deps"} - set(sys.modules)
    starters = ("start_api_server", "start_monitor", "start_log_monitor")
    originals = {name: getattr(Node, name) for name in starters if hasattr(Node, name)}
    # None in sys.modules makes an import fail: that is how Ray finds out whether the dependencies are installed.
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    for name in originals:
        setattr(Node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(Node, name, original)
        for name in absent:
            sys.modules.pop(name, None)
