"""Gates between real processes: one program a phase, whoever waits is next, and the dead hold nothing."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.phases import GateFolders, Gates
from tests.unit.cluster.launches import ROOT

PROGRAM = """
import sys
from cluster.phases import Gates

gates, inside = Gates(sys.argv[1]), None
for line in sys.stdin:
    word, _, phase = line.strip().partition(" ")
    if word == "enter":
        inside = gates.through(phase)
        inside.__enter__()
    else:
        inside.__exit__(None, None, None)
    print(word, flush=True)
"""
LOOP = """
import os, sys, time
from cluster.phases import Gates

gates = Gates(sys.argv[1])
log = os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for step in range(int(sys.argv[4])):
    for phase in sys.argv[5:]:
        with gates.through(phase):
            os.write(log, f"+ {phase} {sys.argv[3]}\\n".encode())
            time.sleep(0.002)
            os.write(log, f"- {phase} {sys.argv[3]}\\n".encode())
"""


class Program:
    """A process that enters and leaves phases as it is told."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", PROGRAM, str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
        )  # fmt: skip

    def tell(self, what: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def does(self, what: str) -> None:
        self.tell(what)
        assert self.hear() == what.split()[0]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Program, Program]]:
    programs = Program(tmp_path), Program(tmp_path)
    yield programs
    for program in programs:
        program.kill()
        assert program.process.stdin is not None
        assert program.process.stdout is not None
        program.process.stdin.close()
        program.process.stdout.close()


def is_taken(file: Path) -> bool:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def until_waits(folder: Path, phase: str) -> None:
    """Until somebody stands between the turnstile and the gate."""
    while not is_taken(folder / f"{phase}.turnstile"):
        time.sleep(0.001)


def test_one_learns_while_the_other_decodes(pair: tuple[Program, Program]) -> None:
    one, other = pair
    one.does("enter learn")
    other.does("enter rollout")


def test_whoever_waits_is_next_though_the_other_asks_again_at_once(
    pair: tuple[Program, Program], tmp_path: Path
) -> None:
    one, other = pair
    one.does("enter learn")
    for _ in range(5):
        other.tell("enter learn")
        until_waits(tmp_path, "learn")
        one.tell("leave")
        one.tell("enter learn")
        assert one.hear() == "leave"
        assert other.hear() == "enter"  # before the other one's second turn, which can't end while this one is in
        one, other = other, one
        assert is_taken(tmp_path / "learn")
        # Who asked for a second turn has it once this one leaves.
        one.tell("leave")
        assert one.hear() == "leave"
        assert other.hear() == "enter"
        one, other = other, one


def test_who_is_killed_in_a_phase_is_out_of_it(pair: tuple[Program, Program], tmp_path: Path) -> None:
    one, other = pair
    one.does("enter learn")
    other.tell("enter learn")
    until_waits(tmp_path, "learn")
    one.kill()
    assert other.hear() == "enter"


def test_who_is_killed_while_it_waits_leaves_the_turnstile_free(pair: tuple[Program, Program], tmp_path: Path) -> None:
    one, other = pair
    one.does("enter learn")
    other.tell("enter learn")
    until_waits(tmp_path, "learn")
    other.kill()
    one.does("leave")
    one.does("enter learn")


def test_never_are_two_in_one_phase_and_nobody_starves(tmp_path: Path) -> None:
    """An RL program and an SFT program, which wants to learn all the time."""
    log, steps = tmp_path / "log", 40
    ways = (("rl", ["rollout", "learn"]), ("sft", ["learn"]))
    programs = [
        subprocess.Popen([sys.executable, "-c", LOOP, str(tmp_path), str(log), name, str(steps), *phases], cwd=ROOT)
        for name, phases in ways
    ]
    assert [program.wait() for program in programs] == [0, 0]
    inside: dict[str, str] = {}
    done = {"rl": 0, "sft": 0}
    for line in log.read_text().splitlines():
        sign, phase, name = line.split()
        if sign == "+":
            assert phase not in inside
            inside[phase] = name
        else:
            assert inside.pop(phase) == name
            done[name] += phase == "learn"
    assert done == {"rl": steps, "sft": steps}


def test_a_phase_ends_with_an_error_inside_it(tmp_path: Path) -> None:
    gates = Gates(str(tmp_path))
    with pytest.raises(ValueError, match="the loss"), gates.through("learn"):
        raise ValueError("the loss is not a number")
    assert not is_taken(tmp_path / "learn")
    assert not is_taken(tmp_path / "learn.turnstile")


def test_without_a_folder_there_is_nobody_to_wait_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Gates("").through("learn"):
        assert not list(tmp_path.iterdir())


def test_devices_have_gates_of_their_own_until_the_node_is_done() -> None:
    folders = GateFolders()
    one, other = folders.of(0), folders.of(1)
    assert one != other
    assert folders.of(0) == one
    folders.remove()
    assert not one.exists()
    folders.remove()
