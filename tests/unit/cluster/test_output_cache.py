"""The artifacts folder as entries that are removed whole."""

import multiprocessing
import os
import shutil
import signal
import threading
import time

import pytest

from cluster import output_cache
from cluster.output_cache import LEFTOVER_S, FolderCache
from cluster.outputs import STATE, TRUNK, Artifacts
from orchestrator.schema import Outcome, Stage
from orchestrator.schema.caching import CacheKind

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(tmp_path)


@pytest.fixture
def cache(tmp_path):
    return FolderCache(tmp_path)


def commit(artifacts, key, files=3, text="weights", bundle_id=None):
    bundle_id = bundle_id or f"bundle-{key}"
    artifacts.prepare(bundle_id, "study", key)
    for number in range(files):
        (artifacts.incoming(bundle_id) / f"{number}.txt").write_text(text)
    artifacts.commit(bundle_id, key, Outcome())


def entry(cache, kind, name):
    return next(e for e in cache.entries() if (e.kind, e.name) == (kind, name))


def output(cache, key="key"):
    return entry(cache, CacheKind.OUTPUT, key)


def grow_old(path, seconds=1000.0):
    os.utime(path, (time.time() - seconds,) * 2)


def test_everything_in_the_folder_is_an_entry(artifacts, cache):
    commit(artifacts, "key", text="12345678")
    (artifacts.checkpoint("study", "key") / "step-3").mkdir()
    (artifacts.checkpoint("study", "key") / "step-3" / "state").write_text("12345")
    artifacts.keep("study", "key")
    artifacts.prepare("writing", "other", "key2")
    (artifacts.cache() / "problems.json").write_text("123")
    found = {(e.kind, e.name.split("-")[0]): e for e in cache.entries()}
    assert set(found) == {
        (CacheKind.OUTPUT, "key"),
        (CacheKind.CHECKPOINT, "study/key"),
        (CacheKind.CHECKPOINT, "other/key2"),
        (CacheKind.KEPT, "key"),
        (CacheKind.UNFINISHED, "writing"),
        (CacheKind.SHARED, "problems.json"),
    }
    checkpoint, kept = found[CacheKind.CHECKPOINT, "study/key"], found[CacheKind.KEPT, "key"]
    assert (checkpoint.bytes, checkpoint.study_id, checkpoint.stage_key) == (5, "study", "key")
    assert kept.stage_key == "key"
    assert checkpoint.files == kept.files  # by hard links


def test_whether_an_output_verifies_is_told_and_of_nothing_else(artifacts, cache):
    commit(artifacts, "key")
    assert cache.verifies(output(cache)) is True
    (artifacts.stage("key") / "0.txt").write_text("w3ights")
    assert [cache.verifies(e) for e in cache.entries()].count(False) == 1
    assert cache.verifies(entry(cache, CacheKind.CHECKPOINT, "study/key")) is None


def test_what_is_hidden_is_gone_until_it_is_put_back(artifacts, cache):
    commit(artifacts, "key")
    found = output(cache)
    place = cache.hide(found)
    assert artifacts.verified("key") is None
    assert cache.hide(found) is None  # somebody else has it
    cache.put_back(found, place)
    assert artifacts.verified("key") is not None
    assert output(cache) == found


def test_what_was_made_again_meanwhile_stays_when_the_old_one_is_put_back(artifacts, cache):
    commit(artifacts, "key", text="old")
    found = output(cache)
    place = cache.hide(found)
    commit(artifacts, "key", text="new")
    cache.put_back(found, place)
    assert (artifacts.stage("key") / "0.txt").read_text() == "new"
    assert list((artifacts.root / "doomed").iterdir()) == []


@pytest.mark.parametrize(
    "use",
    [
        lambda artifacts: artifacts.available(["key"]),
        lambda artifacts: artifacts.start_of(stage(parent_key="key")),
        lambda artifacts: artifacts.start_of(stage(continues="key")),
    ],
)
def test_what_was_used_since_somebody_looked_is_not_hidden(artifacts, cache, use):
    commit(artifacts, "key")
    grow_old(artifacts.stage("key"))
    found = output(cache)
    use(artifacts)
    assert output(cache).used_at > found.used_at + 900
    assert cache.hide(found) is None
    assert artifacts.verified("key") is not None


def stage(**fields):
    return Stage(
        **{"name": "s", "key": "k", "parent_key": "", "entrypoint": "", "config": {}, "budget_steps": 1} | fields
    )


def test_an_end_of_a_trunk_is_noted_and_forgotten_with_its_output(artifacts, cache):
    artifacts.prepare("b", "study", "key")
    (artifacts.incoming("b") / STATE).mkdir()
    (artifacts.incoming("b") / STATE / "process-0.pt").write_text("state")
    (artifacts.incoming("b") / TRUNK).write_text('{"trunk": "oak", "steps": 7, "processes": 1}')
    artifacts.commit("b", "key", Outcome())
    assert artifacts.start_of(stage(continues="key")) == artifacts.stage("key") / STATE
    assert [note.name for note in (artifacts.root / "trunks" / "oak").iterdir()] == ["key"]
    shutil.rmtree(artifacts.checkpoint("study", "key"))
    name, step = artifacts.keep("study", "key")
    assert (step, (artifacts.kept(name) / "process-0.pt").read_text()) == (7, "state")
    assert artifacts.keep("study", "key") == (name, step)
    cache.delete(cache.hide(output(cache)))
    cache.delete_leftovers(time.time())
    assert list((artifacts.root / "trunks" / "oak").iterdir()) == []


def test_what_somebody_hid_and_died_is_deleted_once_it_is_old(artifacts, cache):
    commit(artifacts, "key")
    cache.hide(output(cache))
    cache.delete_leftovers(time.time())
    assert len(list((artifacts.root / "doomed").iterdir())) == 1
    cache.delete_leftovers(time.time() + LEFTOVER_S)
    assert list((artifacts.root / "doomed").iterdir()) == []


# --- whoever is killed, at any moment --------------------------------------------------------------------------------


def commit_for_ever(artifacts, cache):
    """Commits and removes one output, over and over."""
    number = 0
    while True:
        number += 1
        commit(artifacts, "key", files=12, bundle_id=f"b{os.getpid()}-{number}")
        place = cache.hide(output(cache))
        if place is not None:
            cache.delete(place)


def whole_or_absent(artifacts):
    """An output whose folder is in its place verifies, and has all its files; the names are read in one go."""
    folder = artifacts.stage("key")
    if not folder.is_dir():
        return False
    outcome = artifacts.verified("key")
    assert outcome is not None
    assert len([path for path in folder.iterdir() if path.suffix == ".txt"]) == 12
    return True


def test_half_an_output_is_never_seen_whenever_a_writer_or_a_collector_is_killed(artifacts, cache):
    seen = []
    for round_ in range(25):
        process = FORK.Process(target=commit_for_ever, args=(artifacts, cache))
        process.start()
        time.sleep(0.02 + 0.003 * round_)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        seen.append(whole_or_absent(artifacts))
    # What the killed left never gets into the way of those that come later.
    commit(artifacts, "key", files=12, bundle_id="last")
    assert whole_or_absent(artifacts)


def test_two_collectors_and_a_writer_take_turns_without_an_error(artifacts, cache):
    errors, stop = [], threading.Event()

    def collecting():
        mine = FolderCache(artifacts.root)
        try:
            while not stop.is_set():
                for found in mine.entries():
                    if found.kind is CacheKind.OUTPUT and (place := mine.hide(found)):
                        mine.delete(place)
        except Exception as error:  # told below
            errors.append(error)

    collectors = [threading.Thread(target=collecting) for _ in range(2)]
    for thread in collectors:
        thread.start()
    for number in range(40):
        commit(artifacts, f"key{number % 3}", bundle_id=f"b{number}")
    stop.set()
    for thread in collectors:
        thread.join()
    assert errors == []
    assert list((artifacts.root / "doomed").iterdir()) == []


def test_the_implementation_is_where_the_orchestrator_looks_for_it():
    from orchestrator.caching import collecting

    assert f"{output_cache.__name__}:{FolderCache.__name__}" == collecting._IMPLEMENTATION
