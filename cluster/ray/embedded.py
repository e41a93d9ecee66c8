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


def start_ray(inventory: Inventory, devices: int) -> str:
    """`ray.init` with `devices` devices of this machine; the temporary folder it uses, for `stop_ray`.

    Call it from a thread that outlives the cluster (the main one): Ray's processes die with the thread that made them.
    A KeyboardInterrupt is heard when Ray's own code returns, within seconds; then nothing is left.
    """
    parent = tempfile.gettempdir()
    folder = tempfile.mkdtemp(prefix="ray-", dir=parent if len(parent) <= _LONGEST_TEMP_FOLDER else "/tmp")
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
                _temp_dir=folder,
                _system_config=_SYSTEM_CONFIG,
            )
    except BaseException:
        stop_ray(folder)
        raise
    return folder


def stop_ray(folder: str) -> None:
    """End Ray's processes and remove what they wrote."""
    ray.shutdown()
    # An interrupted ray.init leaves processes that ray.shutdown doesn't know of yet. Ours name the folder.
    for root in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(folder in argument for argument in root.cmdline()):
                for process in [root, *root.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                root.wait(_KILL_WAIT_S)
    shutil.rmtree(folder, ignore_errors=True)


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
