"""A file is there whole or not at all."""

from pathlib import Path

import pytest

from orchestrator.tracking.whole import make_whole


def write(path: Path) -> None:
    path.write_text("mine")


def test_what_is_made_gets_its_name_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    make_whole(tmp_path / "file", write)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "mine")]


def test_what_is_there_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("theirs")
    make_whole(tmp_path / "file", write)
    assert (tmp_path / "file").read_text() == "theirs"


def test_a_making_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        make_whole(tmp_path / "file", fail)
    assert list(tmp_path.iterdir()) == []


def test_whoever_comes_second_leaves_the_first_ones_file(tmp_path: Path) -> None:
    def overtaken(path: Path) -> None:
        path.write_text("mine")
        (tmp_path / "file").write_text("theirs")

    make_whole(tmp_path / "file", overtaken)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "theirs")]
