"""One leader at a time: who may take the lease over, and when."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from orchestrator.ports import LeaseLost, StoreUnavailable
from orchestrator.schema import Holder, Lease
from orchestrator.service.leadership import (
    LOOK_S,
    TAKEOVER_S,
    Candidate,
    Heart,
    is_gone,
    kill_tree,
    last_sign_of_life,
    this_process,
)
from orchestrator.store.memory import MemoryStore

ELSEWHERE = Holder(host="another-host", pid=1, started_at=0.0)


class Waiting:
    """A candidate with a clock that the test moves."""

    def __init__(self, store: MemoryStore) -> None:
        self.at = 100.0
        self.store = store
        self.candidate = Candidate(store, {}, now=lambda: self.at, monotonic=lambda: self.at)

    def looks(self, for_s: float, every_s: float = 1.0) -> Lease | None:
        """The lease, if it is taken within `for_s`."""
        end = self.at + for_s
        while self.at < end:
            taken = self.candidate.take()
            if taken is not None:
                return taken
            self.at += every_s
        return None


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def waiting(store: MemoryStore) -> Waiting:
    """Beside a leader on another host, of which only its beat can be seen."""
    assert store.take_lease(store.lease(), ELSEWHERE, {}, 0.0) is not None
    return Waiting(store)


def test_a_lease_that_nobody_holds_is_taken_at_once(store: MemoryStore) -> None:
    taken = Waiting(store).candidate.take()
    assert taken is not None
    assert (taken.term, taken.holder) == (1, this_process())


def test_a_lease_that_was_given_back_is_taken_at_once(waiting: Waiting) -> None:
    waiting.store.release_lease(1, 1.0)
    assert waiting.candidate.take() is not None


def test_a_silent_leader_is_succeeded_after_the_takeover_time(waiting: Waiting) -> None:
    started = waiting.at
    taken = waiting.looks(for_s=60.0)
    assert taken is not None
    assert taken.term == 2
    assert TAKEOVER_S <= waiting.at - started <= TAKEOVER_S + 1.0


def test_the_last_beat_of_the_leader_before_is_known_to_its_successor(waiting: Waiting) -> None:
    waiting.store.renew_lease(1, 55.0)
    assert waiting.looks(for_s=60.0) is not None
    assert waiting.candidate.seen is not None
    assert waiting.candidate.seen.beat_at == 55.0


def test_a_leader_that_beats_is_never_succeeded(waiting: Waiting) -> None:
    for _ in range(100):
        waiting.store.renew_lease(1, waiting.at)
        assert waiting.looks(for_s=1.0) is None


def test_a_beat_that_nobody_watched_counts_for_nothing(waiting: Waiting) -> None:
    assert waiting.looks(for_s=60.0, every_s=LOOK_S + 0.1) is None


def test_a_store_that_was_away_starts_the_wait_anew(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting.looks(for_s=TAKEOVER_S - 1.0)

    def away() -> Lease:
        raise StoreUnavailable("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(waiting.store, "lease", away)
        assert waiting.candidate.take() is None
    assert waiting.looks(for_s=TAKEOVER_S - 1.0) is None


def test_a_dead_process_of_this_machine_is_succeeded_at_once(store: MemoryStore) -> None:
    gone = replace(this_process(), pid=2**22 - 1)
    store.take_lease(store.lease(), gone, {}, 0.0)
    assert Waiting(store).candidate.take() is not None


def test_another_process_with_the_number_of_the_dead_one_is_not_it() -> None:
    assert is_gone(replace(this_process(), started_at=1.0))
    assert not is_gone(this_process())


@pytest.fixture
def heart(store: MemoryStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Heart:
    """The heart of term 1, which beats fast; not started."""
    monkeypatch.setattr("orchestrator.service.leadership.BEAT_S", 0.01)
    monkeypatch.setattr("orchestrator.service.leadership.PULSE_S", 0.01)
    store.take_lease(store.lease(), ELSEWHERE, {}, 0.0)
    return Heart(store, 1, time.time, tmp_path / "pulse")


def test_a_heart_keeps_the_lease(store: MemoryStore, heart: Heart) -> None:
    before = store.lease().beat
    with heart:
        deadline = time.monotonic() + 5.0
        while store.lease().beat < before + 3:
            heart.main_loop_is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_main_loop_hears_that_the_term_is_over(store: MemoryStore, heart: Heart) -> None:
    with heart:
        heart.main_loop_is_alive()
        store.take_lease(store.lease(), ELSEWHERE, {}, 0.0)
        heart._thread.join(5.0)  # it has nothing left to beat for
        with pytest.raises(LeaseLost, match="term 1 is over"):
            heart.main_loop_is_alive()


def test_a_main_loop_that_is_stuck_gives_no_sign_of_life_until_it_goes_on(
    store: MemoryStore, heart: Heart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.service.leadership.STUCK_S", 0.05)
    with heart:
        time.sleep(0.2)
        stuck_at = store.lease().beat
        time.sleep(0.1)
        assert store.lease().beat == stuck_at
        deadline = time.monotonic() + 5.0
        while store.lease().beat == stuck_at:
            heart.main_loop_is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_heart_beats_on_when_a_successor_removed_its_pulse(store: MemoryStore, heart: Heart, tmp_path: Path) -> None:
    with heart:
        (tmp_path / "pulse").unlink()
        store.take_lease(store.lease(), ELSEWHERE, {}, 0.0)
        heart._thread.join(5.0)
        with pytest.raises(LeaseLost):
            heart.main_loop_is_alive()


def test_a_pulse_tells_more_exactly_than_the_beat_when_a_leader_died(store: MemoryStore, tmp_path: Path) -> None:
    pulse = tmp_path / "pulse"
    lease = store.take_lease(store.lease(), ELSEWHERE, {}, 100.0)
    assert lease is not None
    assert last_sign_of_life(lease, pulse) == 100.0  # a home that can't be seen from here
    pulse.touch()
    os.utime(pulse, (100.2, 100.2))
    assert last_sign_of_life(lease, pulse) == 100.2
    assert not pulse.exists()


@pytest.fixture
def family() -> Iterator[list[psutil.Process]]:
    """A process and a child of its own."""
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    with subprocess.Popen([sys.executable, "-c", code]) as started:
        parent = psutil.Process(started.pid)
        while not parent.children():
            time.sleep(0.01)
        members = [parent, *parent.children()]
        yield members
        for member in members:
            if member.is_running():
                member.kill()


def test_a_process_is_killed_with_all_that_came_of_it(family: list[psutil.Process]) -> None:
    kill_tree(family[0].pid, family[0].create_time())
    assert not any(member.is_running() for member in family)


def test_a_process_with_the_same_number_that_started_later_is_left_alone(family: list[psutil.Process]) -> None:
    kill_tree(family[0].pid, family[0].create_time() - 100.0)
    assert all(member.is_running() for member in family)
