"""A stopping policy on recorded curves: what it would have trained, and whom it would have kept. Pure.

`seats` trials train at once, all at the same pace, an evaluation a turn; a free seat goes to the next one that waits,
or to one that goes on. The policy is asked once a turn, and its verdicts take effect at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.schema import Fate, Stage, Trial, TrialState, Variant
from orchestrator.stopping import GoOn, Hold, Prune, StoppingPolicy
from tests.bench.stopping.curves import Curve


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """trained: the part of all the steps of the last stages that were trained, `finishing` the part of them that went
    into those that were finished for the record. winner: the number of the best of those that completed unstopped, by
    dev accuracy. regret: by how much the best of the stopped would have beaten it on held-out problems; lost: by how
    much the winner without any rule does."""

    trained: float
    finishing: float
    stopped: int
    promoted: int
    winner: int
    kept: bool
    regret: float
    lost: float


def replay(curves: Sequence[Curve], policy: StoppingPolicy, seats: int) -> Replayed:
    """Until nothing waits. Raises RuntimeError if it goes nowhere."""
    trials = [trial_of(number, curve) for number, curve in enumerate(curves)]
    promoted = 0
    for _ in range(sum(len(curve.evaluations) for curve in curves) + 1):
        trials = _seated(trials, seats)
        running = any(trial.state is TrialState.RUNNING for trial in trials)
        trials = [_a_turn(trial, curves[trial.number]) for trial in trials]
        verdicts = policy(trials)
        if not running and not verdicts:
            break
        promoted += sum(isinstance(v, GoOn) and v.fate is Fate.PROMOTED for v in verdicts)
        for verdict in verdicts:
            number = int(verdict.trial_id.rpartition("-")[2])
            trials[number] = after(trials[number], verdict)
    else:
        raise RuntimeError("the replay goes nowhere")
    return _measured(trials, curves, promoted)


def _seated(trials: Sequence[Trial], seats: int) -> list[Trial]:
    free = seats - sum(trial.state is TrialState.RUNNING for trial in trials)
    seated = list(trials)
    for trial in trials:
        if free > 0 and trial.state is TrialState.QUEUED:
            seated[trial.number] = replace(trial, state=TrialState.RUNNING)
            free -= 1
    return seated


def _a_turn(trial: Trial, curve: Curve) -> Trial:
    if trial.state is not TrialState.RUNNING:
        return trial
    known = curve.evaluations[: len(trial.evaluations) + 1]
    if len(known) < len(curve.evaluations):
        return replace(trial, evaluations=known)
    metrics = {"accuracy": curve.accuracy, "dev_accuracy": curve.dev_accuracy}
    return replace(trial, evaluations=known, metrics=metrics, state=TrialState.COMPLETED)


def after(trial: Trial, verdict: Hold | GoOn | Prune) -> Trial:
    """The trial once the verdict has taken effect."""
    if isinstance(verdict, Hold):
        return replace(trial, state=TrialState.PAUSED, stopped=verdict.stop)
    if isinstance(verdict, Prune):
        return replace(trial, state=TrialState.PRUNED)
    assert trial.stopped is not None
    state = TrialState.QUEUED if trial.held else trial.state
    return replace(trial, state=state, stopped=replace(trial.stopped, fate=verdict.fate))


def _measured(trials: Sequence[Trial], curves: Sequence[Curve], promoted: int) -> Replayed:
    total = sum(curve.budget_steps for curve in curves)
    stopped = [t for t in trials if t.stopped is not None and t.stopped.fate in (Fate.HELD, Fate.FINISHING)]
    finished = [t for t in stopped if t.stopped is not None and t.stopped.fate is Fate.FINISHING]
    unstopped = [t for t in trials if t.state is TrialState.COMPLETED and t not in stopped]
    winner = max(unstopped, key=lambda t: (curves[t.number].dev_accuracy, -t.number))
    best = max(range(len(curves)), key=lambda n: (curves[n].dev_accuracy, -n))
    won = curves[winner.number].accuracy
    return Replayed(
        trained=sum(trial.evaluations[-1].step for trial in trials if trial.evaluations) / total,
        finishing=sum(t.evaluations[-1].step - _stopped_at(t) for t in finished) / total,
        stopped=len(stopped),
        promoted=promoted,
        winner=winner.number,
        kept=winner.number == best,
        regret=max(0.0, *(curves[t.number].accuracy - won for t in stopped)) if stopped else 0.0,
        lost=curves[best].accuracy - won,
    )


def _stopped_at(trial: Trial) -> float:
    """The step, of which the verdict's device-seconds tell: a replay charges one a step."""
    assert trial.stopped is not None
    return trial.stopped.gpu_seconds


def trial_of(number: int, curve: Curve) -> Trial:
    """The trial before its first evaluation."""
    stage = Stage(
        name=curve.algorithm, key=str(number), parent_key="", entrypoint="", config={}, budget_steps=curve.budget_steps
    )
    variant = Variant(
        key=stage.key,
        algorithm=curve.algorithm,
        seed=curve.seed,
        overrides=curve.overrides,
        config={"task": {"split": {"dev": curve.problems}}},
        stages=(stage,),
    )
    return Trial(trial_id=f"replayed-{number}", study_id="replayed", number=number, variant=variant)
