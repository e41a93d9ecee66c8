"""What a trial's last stage had reached, and what it had spent by then: what stopping policies judge by."""

from orchestrator.events import StageReported
from orchestrator.schema import Evaluation, Study, Trial
from orchestrator.state.records import Bundle

ACCURACY = "eval/accuracy"
FOLDS = "eval/fold/"
"""A stage that can say how accurate it is on each of several equal, disjoint parts of the dev problems reports them
beside `ACCURACY` as `eval/fold/0`, `eval/fold/1`, ...; they become no series of their own."""
TOKENS = "train/tokens_seen"

MOST_KEPT = 64
"""Of one trial. Beyond, the one whose neighbours are closest to each other, relative to how far they are, is dropped:
what is kept stays dense enough for rungs that lie a constant factor apart."""


def judged(study: Study) -> bool:
    """Whether a stopping policy looks at the study's trials."""
    return bool(study.config.get("stopping", {}).get("name", "never") != "never")


def with_evaluation(trial: Trial, bundle: Bundle, waiters: int, event: StageReported) -> tuple[Evaluation, ...]:
    """The trial's evaluations, with the one that the event tells of if it tells of a new one. A run that goes over
    steps again, from its last checkpoint, evaluates them a second time: the first counts."""
    known = trial.evaluations
    accuracy = event.metrics.get(ACCURACY)
    if accuracy is None or (known and event.step <= known[-1].step):
        return known
    tokens = event.metrics.get(TOKENS, trial.latest.get(TOKENS, (0.0, 0.0))[1])
    new = Evaluation(
        step=float(event.step),
        tokens=float(tokens),
        device_seconds=trial.stage_gpu_seconds + bundle.allocation.device_seconds(event.at) / waiters,
        accuracy=float(accuracy),
        folds=_folds(event),
    )
    return _thinned((*known, new))


def without_folds(event: StageReported) -> dict[str, float]:
    """The series that the event adds to."""
    return {name: value for name, value in event.metrics.items() if not name.startswith(FOLDS)}


def _folds(event: StageReported) -> tuple[float, ...]:
    named = {name.removeprefix(FOLDS): v for name, v in event.metrics.items() if name.startswith(FOLDS)}
    numbered = {int(name): value for name, value in named.items() if name.isdecimal()}
    return tuple(float(numbered[number]) for number in sorted(numbered))


def _thinned(points: tuple[Evaluation, ...]) -> tuple[Evaluation, ...]:
    if len(points) <= MOST_KEPT:
        return points
    crowded = min(range(1, len(points) - 1), key=lambda i: points[i + 1].step / max(1.0, points[i - 1].step))
    return points[:crowded] + points[crowded + 1 :]
