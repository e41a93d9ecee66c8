import errno
import json
import os
import shutil
import threading

import pytest

from cluster.outputs import MANIFEST, OUTCOME, STEP, Artifacts
from experiments import checkpoint as checkpoints
from orchestrator.schema import Outcome


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(tmp_path)


def write(artifacts, bundle_id, key="key", text="weights"):
    artifacts.prepare(bundle_id, "study", key)
    folder = artifacts.incoming(bundle_id)
    (folder / "model").mkdir()
    (folder / "model" / "weights.txt").write_text(text)


def test_a_committed_output_verifies_and_tells_its_outcome(artifacts):
    write(artifacts, "b1")
    outcome = Outcome(metrics={"eval/accuracy": 0.5}, busy_s=2.0, peak_memory_bytes=7)
    assert artifacts.verified("key") is None
    assert artifacts.commit("b1", "key", outcome) == outcome
    assert artifacts.verified("key") == outcome
    assert not artifacts.incoming("b1").exists()
    assert set(json.loads((artifacts.stage("key") / MANIFEST).read_text())["files"]) == {OUTCOME, "model/weights.txt"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "model" / "weights.txt").write_text("wEights"),
        lambda folder: (folder / "model" / "weights.txt").unlink(),
        lambda folder: (folder / MANIFEST).unlink(),
        lambda folder: (folder / MANIFEST).write_text("[]"),
        lambda folder: (folder / MANIFEST).write_text('{"files": {}}'),
        lambda folder: (folder / OUTCOME).write_text("{}"),
    ],
)
def test_a_damaged_output_is_absent_and_replaced(artifacts, damage):
    write(artifacts, "b1")
    artifacts.commit("b1", "key", Outcome())
    damage(artifacts.stage("key"))
    assert artifacts.available(["key"]) == set()
    write(artifacts, "b2")
    artifacts.commit("b2", "key", Outcome())
    assert artifacts.available(["key", "other"]) == {"key"}
    assert list((artifacts.root / "incoming").iterdir()) == []


def test_the_first_commit_wins_and_the_second_pays_its_own_cost(artifacts):
    write(artifacts, "b1", text="first")
    artifacts.commit("b1", "key", Outcome(metrics={"loss": 1.0}, busy_s=1.0))
    write(artifacts, "b2", text="second")
    told = artifacts.commit("b2", "key", Outcome(metrics={"loss": 2.0}, busy_s=9.0, peak_memory_bytes=3))
    assert told == Outcome(metrics={"loss": 1.0}, busy_s=9.0, peak_memory_bytes=3)
    assert (artifacts.stage("key") / "model" / "weights.txt").read_text() == "first"
    assert not artifacts.incoming("b2").exists()


def test_prepare_empties_what_an_earlier_attempt_left(artifacts):
    write(artifacts, "b1")
    artifacts.prepare("b1", "study", "key")
    assert list(artifacts.incoming("b1").iterdir()) == []
    artifacts.discard("b1")
    artifacts.discard("b1")
    assert not artifacts.incoming("b1").exists()


def checkpoint(artifacts, step, study="study", text="state"):
    folder = artifacts.checkpoint(study, "key") / f"step-{step}"
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "state.pt").write_text(text)
    return folder


def test_a_checkpoint_survives_attempts_and_the_end_of_its_stage(artifacts):
    write(artifacts, "b1")
    folder = checkpoint(artifacts, 3)
    artifacts.commit("b1", "key", Outcome())
    artifacts.discard("b1")
    artifacts.prepare("b2", "study", "key")
    assert (folder / "engine" / "state.pt").read_text() == "state"


def test_nothing_is_kept_where_there_is_no_checkpoint(artifacts):
    assert artifacts.keep("study", "key") is None
    artifacts.prepare("b1", "study", "key")
    assert artifacts.keep("study", "key") is None


def test_the_newest_checkpoint_is_kept_and_outlives_the_stages_own(artifacts):
    for step in (9, 10):
        checkpoint(artifacts, step)
    name, step = artifacts.keep("study", "key")
    shutil.rmtree(artifacts.checkpoint("study", "key"))
    assert step == 10
    assert (artifacts.kept(name) / "engine" / "state.pt").read_text() == "state"


def test_a_checkpoint_that_is_kept_again_has_its_name_and_takes_no_room(artifacts):
    source = checkpoint(artifacts, 3)
    kept = artifacts.keep("study", "key")
    assert artifacts.keep("study", "key") == kept
    assert (artifacts.kept(kept[0]) / "engine" / "state.pt").samefile(source / "engine" / "state.pt")
    assert len(list((artifacts.root / "kept").iterdir())) == 1


def test_two_studies_keep_the_same_step_of_the_same_stage_apart(artifacts):
    checkpoint(artifacts, 3, "one", text="of one")
    checkpoint(artifacts, 3, "other", text="of the other")
    names = [artifacts.keep(study, "key")[0] for study in ("one", "other")]
    assert [(artifacts.kept(name) / "engine" / "state.pt").read_text() for name in names] == ["of one", "of the other"]


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM])
def test_a_checkpoint_is_copied_where_it_can_not_be_linked(artifacts, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    source = checkpoint(artifacts, 3)
    name, _ = artifacts.keep("study", "key")
    copy = artifacts.kept(name) / "engine" / "state.pt"
    assert copy.read_text() == "state"
    assert not copy.samefile(source / "engine" / "state.pt")


def test_what_is_kept_is_whole_while_the_stage_replaces_its_checkpoint(artifacts):
    """A writer replaces checkpoints of 40 files, all of one content, as fast as it can; no kept one may lack any."""
    files, rounds = 40, 60

    def write_checkpoints():
        folder = artifacts.checkpoint("study", "key")
        for step in range(1, rounds):
            unfinished = folder / f"unfinished-{step}"
            unfinished.mkdir(parents=True)
            for number in range(files):
                (unfinished / str(number)).write_text(str(step))
            unfinished.rename(folder / f"step-{step}")
            for old in folder.iterdir():
                if old.name != f"step-{step}":
                    shutil.rmtree(old)

    writer = threading.Thread(target=write_checkpoints)
    writer.start()
    kept = set()
    while writer.is_alive() or not kept:
        found = artifacts.keep("study", "key")
        kept |= {found} - {None}
    writer.join()
    for name, step in kept:
        assert {path.read_text() for path in artifacts.kept(name).iterdir()} == {str(step)}
        assert len(list(artifacts.kept(name).iterdir())) == files
    assert not list((artifacts.root / "kept").glob(".*"))


def test_the_stages_name_their_checkpoints_as_the_cluster_reads_them():
    assert checkpoints.PREFIX == STEP


def test_studies_do_not_share_checkpoints(artifacts):
    assert artifacts.checkpoint("one", "key") != artifacts.checkpoint("other", "key")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "nul\0"])
def test_a_key_is_a_plain_file_name(artifacts, name):
    with pytest.raises(ValueError, match="can't name a folder"):
        artifacts.stage(name)
