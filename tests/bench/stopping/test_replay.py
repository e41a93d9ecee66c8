"""What a policy would have trained of recorded curves."""

from pathlib import Path

import pytest

from orchestrator.schema import Evaluation
from orchestrator.stopping import never
from tests.bench.stopping.curves import Curve, read, write
from tests.bench.stopping.replay import replay
from tests.unit.orchestrator.stopping.studies import policy

BEST, WORST = 0.9, 0.1


def curve(accuracy: float, name: int, seed: int = 0) -> Curve:
    return Curve(
        algorithm="sft",
        seed=seed,
        overrides=(f"optimizer.lr={name}", f"seed={seed}"),
        budget_steps=9,
        problems=200,
        evaluations=tuple(Evaluation(float(step), 10.0 * step, float(step), accuracy) for step in range(10)),
        accuracy=accuracy,
        dev_accuracy=accuracy,
    )


def curves() -> list[Curve]:
    return [curve(BEST if n < 4 else WORST, n) for n in range(8)]


def test_without_a_rule_everything_is_trained() -> None:
    result = replay(curves(), never, seats=2)
    assert (result.trained, result.stopped, result.winner, result.kept) == (1.0, 0, 0, True)


def test_who_is_stopped_is_trained_as_far_as_its_rung() -> None:
    result = replay(curves(), policy(resource="steps"), seats=8)
    assert (result.stopped, result.promoted, result.kept) == (4, 0, True)
    assert result.trained == pytest.approx((4 * 9 + 4 * 1) / 72)


def test_what_finishing_takes_is_told_apart() -> None:
    result = replay(curves(), policy(resource="steps", finish_share=1.0), seats=8)
    assert result.trained == 1.0
    assert result.finishing == pytest.approx(4 * 8 / 72)


def test_the_regret_of_a_late_bloomer_that_was_stopped_is_its_lead() -> None:
    late = curve(WORST, 9)
    bloomer = Curve(**{name: getattr(late, name) for name in late.__slots__} | {"accuracy": 0.95, "dev_accuracy": 0.95})
    result = replay([*curves(), bloomer], policy(resource="steps"), seats=9)
    assert not result.kept
    assert (result.regret, result.lost) == pytest.approx((0.05, 0.05))


def test_curves_that_were_written_read_back(tmp_path: Path) -> None:
    path = tmp_path / "curves.json"
    write(path, curves(), {"command": "c"})
    again = read(path)
    assert [c.evaluations for c in again] == [c.evaluations for c in curves()]
    assert [c.overrides for c in again] == [(f"optimizer.lr={n}",) for n in range(8)]
