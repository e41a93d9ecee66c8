"""A clean process that forks the processes of bundles: `python -P -m cluster.forkserver --listen-fd N ...`.

It imports the modules named by `--preload` once (torch, deepspeed and the stages take seconds), then forks a child
per request in tens of milliseconds. What makes the fork safe is guaranteed here: the process is nothing but this
server, has exactly one thread and no CUDA context, and refuses to serve otherwise.

It serves one controller, whose connection arrives at the listening socket that whoever started the server made, and
it reports every start and every exit (with the reaped status). It lives no longer than its controller or its starter:
at the end of either's stream (the connection; standard input) it kills its children and exits. Children die with it.
"""

import argparse
import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections import deque
from pathlib import Path
from typing import Any, NoReturn

from cluster import stack_worker, wire, worker
from cluster.log import bound_output, redirect_output
from cluster.outputs import Artifacts
from orchestrator.schema import DeviceKind

_PR_SET_PDEATHSIG = 1
_OOM_SCORE_OF_BUNDLES = 500
_LIBC = ctypes.CDLL(None)
_CUDA_DEVICE_ORDER = "PCI_BUS_ID"


def server_environment(kind: DeviceKind) -> dict[str, str]:
    """The variables that must be set before the server's first import."""
    return {
        "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # torch.cuda.is_available() would otherwise poison every fork
        "TOKENIZERS_PARALLELISM": "false",
        "DS_ACCELERATOR": kind.value,
        "CUDA_DEVICE_ORDER": _CUDA_DEVICE_ORDER,  # so that CUDA counts devices as NVML does
        # Thread pools that libraries start while they are imported don't survive a fork; children set their own.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        # A preloaded module may import pyarrow (mlflow does), whose allocator would start a thread of its own.
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
    }


class UnsafeToFork(RuntimeError):
    """What was preloaded left threads or a CUDA context behind."""


class Forkserver:
    """Forks children for one controller. Single-threaded: everything happens in `serve`."""

    def __init__(self, control: socket.socket, lifeline: int) -> None:
        self._control = control
        self._lifeline = lifeline
        self._messages = wire.LineBuffer()
        self._descriptors: deque[int] = deque()
        self._children: dict[int, str] = {}
        self._killed: set[int] = set()
        self._wakeup, self._wakeup_write = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Until the controller or the starter is gone; then no child is left."""
        self._wakeup.setblocking(False)
        self._wakeup_write.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # a handler must exist for the wakeup byte to be written
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        for source in (self._control, self._lifeline, self._wakeup):
            self._selector.register(source, selectors.EVENT_READ)
        try:
            while self._serve_once():
                pass
        finally:
            self._kill_all()

    def _serve_once(self) -> bool:
        for key, _ in self._selector.select():
            if key.fileobj is self._wakeup:
                with contextlib.suppress(BlockingIOError):
                    self._wakeup.recv(4096)
            elif key.fileobj is self._control:
                data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 16)
                self._descriptors.extend(descriptors)
                if not data:
                    return False
                for message in self._messages.feed(data):
                    self._handle(message)
            elif not os.read(self._lifeline, 4096):
                return False
        self._reap()
        return True

    def _handle(self, message: wire.Message) -> None:
        if message["kind"] == "spawn":
            self._spawn(message, self._descriptors.popleft())
        elif message["kind"] == "kill":
            # A child that died by itself is reported so, even if the order to kill it came before its end was noticed.
            self._reap()
            if message["pid"] in self._children:
                self._killed.add(message["pid"])
                _kill_group(message["pid"])

    def _spawn(self, request: wire.Message, descriptor: int) -> None:
        server = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_worker(request, descriptor, server)
        os.close(descriptor)
        self._children[pid] = request["process"]
        self._send({"kind": "spawned", "process": request["process"], "pid": pid})

    def _become_worker(self, request: wire.Message, descriptor: int, server: int) -> NoReturn:
        status = 1
        try:
            os.setsid()
            _die_with_parent(server)
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for source in (self._control, self._wakeup, self._wakeup_write):
                source.close()
            redirect_output(request["log"])
            _take_place(request["cores"], request["environment"])
            _go_first_for_memory()
            bound_output()
            run = stack_worker.run if request["stack"] else worker.run
            status = run(
                socket.socket(fileno=descriptor),
                wire.assignment_from_wire(request["assignment"]),
                Artifacts(Path(request["artifacts"])),
                Path(request["log"]),
            )
        except BaseException:  # nothing may return into the server's loop; the agent reads this in the log
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _reap(self) -> None:
        for pid in list(self._children):
            # Look before reaping: while the dead leader still holds its id, its group can be killed without the risk
            # of hitting another process that got the same number.
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _kill_group(pid)
            _, status = os.waitpid(pid, 0)
            self._send(
                {
                    "kind": "exited",
                    "process": self._children.pop(pid),
                    "status": os.waitstatus_to_exitcode(status),
                    "killed": pid in self._killed,
                }
            )
            self._killed.discard(pid)

    def _send(self, message: wire.Message) -> None:
        # A controller that is gone is noticed by `serve` as the end of its stream.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.sendall(wire.encode(message))

    def _kill_all(self) -> None:
        for pid in self._children:
            _kill_group(pid)
        for pid in self._children:
            os.waitpid(pid, 0)


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        # A child that has not come to its setsid() yet.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    except PermissionError:
        pass  # macOS says so for a group of which only the dead leader is left


def _die_with_parent(parent: int) -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)


def _take_place(cores: list[int], environment: dict[str, str]) -> None:
    """Pin to `cores` (none: anywhere) and set the variables that libraries read at their first use."""
    if cores and sys.platform == "linux":
        os.sched_setaffinity(0, cores)
    os.environ.update(environment)


def _go_first_for_memory() -> None:
    """Where the machine's memory ends, the kernel shall end a bundle, which waits again, and nobody who serves all."""
    adjustment = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):  # not on this system, or not allowed
        adjustment.write_text(str(max(_OOM_SCORE_OF_BUNDLES, int(adjustment.read_text()))))


def _preload(modules: list[str]) -> None:
    """Import, then check that forking is safe. Raises UnsafeToFork, and whatever an import raises."""
    for module in modules:
        importlib.import_module(module)
    tasks = Path("/proc/self/task")
    threads = len(list(tasks.iterdir())) if tasks.exists() else 1
    if threads != 1:
        raise UnsafeToFork(f"importing {', '.join(modules)} left {threads} threads running; a forkserver has one")
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise UnsafeToFork(f"importing {', '.join(modules)} made a CUDA context; a forkserver has none")
    # Collect now and never again look at what survived: a collection in a child would copy those pages.
    gc.collect()
    gc.freeze()


def _step_aside(listener: int) -> None:
    """Go on in a child of this process, which itself only waits for the child's end and tells its status.

    Ray kills an agent's children along with the agent. A grandchild lives to see the end of its controller's stream,
    and ends its bundles with all that they have started.
    """
    child = os.fork()
    if child == 0:
        return
    os.close(listener)
    _, status = os.waitpid(child, 0)
    os._exit(min(1, abs(os.waitstatus_to_exitcode(status))))


def _accept(listener: socket.socket, lifeline: int) -> socket.socket | None:
    """The controller's connection; None if the starter goes first."""
    with selectors.DefaultSelector() as selector, listener:
        selector.register(listener, selectors.EVENT_READ)
        selector.register(lifeline, selectors.EVENT_READ)
        ready = {key.fileobj for key, _ in selector.select()}
        return listener.accept()[0] if listener in ready else None


def main() -> int:
    """Preload, accept the controller, serve it."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m cluster.forkserver", description=__doc__)
    parser.add_argument("--listen-fd", type=int, required=True, help="a listening Unix socket")
    parser.add_argument("--preload", action="append", default=[], help="a module to import; may be repeated")
    parser.add_argument("--python-path", action="append", default=[], help="a folder to import payloads from")
    arguments = parser.parse_args()
    _step_aside(arguments.listen_fd)
    # Whoever started us may have blocked signals (Ray blocks SIGINT in its workers); children shall start as usual.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    sys.path[:0] = arguments.python_path
    ready: wire.Message
    try:
        _preload(arguments.preload)
        ready = {"kind": "ready", "pid": os.getpid(), "preload_s": time.monotonic() - began}
    except Exception as error:  # the controller turns it into a message for the user
        traceback.print_exc()
        ready = {"kind": "failed", "error": "".join(traceback.format_exception_only(error)).strip()}
    control = _accept(socket.socket(fileno=arguments.listen_fd), lifeline=0)
    if control is None:
        return 0
    control.sendall(wire.encode(ready))
    if ready["kind"] == "failed":
        return 1
    Forkserver(control, lifeline=0).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
