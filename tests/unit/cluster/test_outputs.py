import json

import pytest

from cluster.outputs import MANIFEST, OUTCOME, Artifacts
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


def test_a_checkpoint_survives_attempts_until_it_is_forgotten(artifacts):
    artifacts.prepare("b1", "study", "key")
    (artifacts.checkpoint("study", "key") / "step").write_text("3")
    artifacts.prepare("b2", "study", "key")
    assert (artifacts.checkpoint("study", "key") / "step").read_text() == "3"
    artifacts.forget_checkpoint("study", "key")
    artifacts.forget_checkpoint("study", "key")
    assert not artifacts.checkpoint("study", "key").exists()


def test_studies_do_not_share_checkpoints(artifacts):
    assert artifacts.checkpoint("one", "key") != artifacts.checkpoint("other", "key")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "nul\0"])
def test_a_key_is_a_plain_file_name(artifacts, name):
    with pytest.raises(ValueError, match="can't name a folder"):
        artifacts.stage(name)
