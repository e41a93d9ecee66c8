"""The output of one bundle's process: a file that is written line by line and doesn't grow for ever."""

import os
import sys
import threading
import time
from io import TextIOWrapper

LIMIT_BYTES = 64 << 20
CHECK_EVERY_S = 1.0


def redirect_output(log: str) -> None:
    """Send what this process prints, whoever in it prints, to the end of `log`; each line as soon as it is whole."""
    null = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(null)
    os.close(output)


def bound_output(limit_bytes: int = LIMIT_BYTES, every_s: float = CHECK_EVERY_S) -> None:
    """From now on, drop what this process prints once its log has `limit_bytes`; the log's last line says so.

    A thread of its own looks every `every_s` seconds; what came in between beyond the limit is cut off. The last words
    of a process that is killed are in the file all the same: nothing stands between the process and its log.
    """
    threading.Thread(target=_watch, args=(limit_bytes, every_s), name="log-limit", daemon=True).start()


def _watch(limit_bytes: int, every_s: float) -> None:
    while os.fstat(1).st_size < limit_bytes:
        time.sleep(every_s)
    output, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.ftruncate(output, limit_bytes)
    os.write(output, f"\n[the log has {limit_bytes} bytes: further output is dropped]\n".encode())
    os.close(output)
    os.close(null)
