"""What all stopping policies have in common: who is judged where, by what evidence, and what follows.

A trial is judged on the last rung that it has reached, as its *setting*: the trials of one algorithm whose overrides
differ in the seed only. It is *held* if its setting is behind the rule's bar, Optuna's pruner says so too, and that it
is behind is surer than `confidence`. A trial that is held may be promoted: what reaches the rung after it may put it
among those that go on, at the bar or above it. Once nothing can come to that rung any more, it is pruned, or finished
if it was drawn.

The confidence is 1 - looks x p (Bonferroni), since a trial may be judged at several rungs. It says that the setting is
worse on this rung now, not that it would be at the end: what that costs is what pruning regret measures.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from random import Random
from statistics import fmean

from orchestrator.schema import EarlyStop, Evaluation, Fate, Trial, TrialState
from orchestrator.stopping.evidence import Standing, enough_seeds
from orchestrator.stopping.policy import GoOn, Hold, Prune, Verdict
from orchestrator.stopping.rule import Rule, best_first
from orchestrator.stopping.rungs import Ladder, Mark

Setting = tuple[str, tuple[str, ...]]

MOST_AT_ONCE = 50
"""Verdicts in one answer: they change the trials, so that the next cycle asks again."""

_MAY_COME = (TrialState.QUEUED, TrialState.RUNNING, TrialState.PAUSED)


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """A `policy.StoppingPolicy`.

    min_trials: how many must have reached a rung before anybody is judged there. confidence: verdicts that are less
    sure are not given. finish_share: the part of the stopped trials that is finished all the same, drawn by `seed`.
    """

    rule: Rule
    ladder: Ladder
    min_trials: int
    confidence: float
    finish_share: float
    seed: int
    # A memory, not a state, each with what it was made of: marks by trial, standings and p-values by setting and rung,
    # and the last answer. One more evaluation costs what it changes.
    _marks: dict[str, tuple[object, dict[int, Mark]]] = field(default_factory=dict)
    _standings: dict[tuple[Setting, int], tuple[Sequence[object], Standing]] = field(default_factory=dict)
    _p: dict[tuple[Setting, int], tuple[Standing, Standing, float | None]] = field(default_factory=dict)
    _last: list[tuple[Sequence[Trial], list[Verdict]]] = field(default_factory=list)

    def __call__(self, trials: Sequence[Trial]) -> list[Verdict]:
        """See `policy.StoppingPolicy`. What people continued from a checkpoint is left out: it has spent less than it
        was trained for."""
        if self._last and _says_the_same(self._last[0][0], trials):
            return self._last[0][1]
        own = [trial for trial in trials if not trial.variant.stages[-1].warm_from]
        verdicts = _Answer(self, own, {trial.trial_id: self._marks_of(trial) for trial in own}).verdicts()
        self._last[:] = [(tuple(trials), verdicts)]
        return verdicts

    def p_not_worse(self, at: tuple[Setting, int], candidate: Standing, bar: Standing) -> float | None:
        """The rule's, asked once for the same two."""
        known = self._p.get(at)
        if known is None or known[0] is not candidate or known[1] is not bar:
            known = self._p[at] = candidate, bar, self.rule.p_not_worse(candidate, bar)
        return known[2]

    def standing(self, at: tuple[Setting, int], of: Sequence[object], make: Callable[[], Standing]) -> Standing:
        """The setting on the rung, made anew if it is made `of` something else by now."""
        known = self._standings.get(at)
        if known is None or len(known[0]) != len(of) or any(a is not b for a, b in zip(known[0], of, strict=True)):
            known = self._standings[at] = of, make()
        return known[1]

    def _marks_of(self, trial: Trial) -> dict[int, Mark]:
        known = self._marks.get(trial.trial_id)
        if known is None or known[0] is not trial.evaluations:
            known = self._marks[trial.trial_id] = trial.evaluations, self.ladder.marks(trial)
        return known[1]


def _says_the_same(then: Sequence[Trial], now: Sequence[Trial]) -> bool:
    """Whether nothing has changed that verdicts depend on: most of what happens in a study is progress."""
    return len(then) == len(now) and all(
        a is b or (a.evaluations is b.evaluations and a.state is b.state and a.stopped is b.stopped)
        for a, b in zip(then, now, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Behind:
    """That a trial's setting is behind the bar on a rung, and how surely."""

    mark: Mark
    candidate: Standing
    bar: Standing
    confidence: float


class _Answer:
    """One answer of a policy."""

    def __init__(self, policy: EarlyStopping, trials: Sequence[Trial], marks: Mapping[str, dict[int, Mark]]) -> None:
        self.policy, self.trials, self.marks = policy, trials, marks
        self.top = {trial.trial_id: max(marks[trial.trial_id], default=-1) for trial in trials}
        coming = [trial for trial in trials if _may_come(trial)]
        self.lowest_coming = min((self.top[trial.trial_id] for trial in coming), default=None)
        self.resting = bool(coming) and all(trial.state is TrialState.PAUSED for trial in coming)
        self.waits = any(trial.state is TrialState.QUEUED for trial in coming)
        self.stopped = sum(trial.stopped is not None for trial in trials)
        self.members: dict[Setting, list[Trial]] = {}
        for trial in trials:
            self.members.setdefault(setting_of(trial), []).append(trial)
        self.made_of = {
            setting: [part for trial in own for part in (trial.evaluations, trial.state, trial.stopped)]
            for setting, own in self.members.items()
        }
        self.rungs: dict[int, tuple[dict[Setting, Standing], list[Standing]]] = {}

    def verdicts(self) -> list[Verdict]:
        """On the first trials that one is due on, by number."""
        due = (verdict for trial in self.trials if (verdict := self._verdict(trial)) is not None)
        return list(islice(due, MOST_AT_ONCE))

    def _verdict(self, trial: Trial) -> Verdict | None:
        stop, top = trial.stopped, self.top[trial.trial_id]
        if trial.held and stop is not None:
            return self._held(trial, stop)
        if stop is not None and stop.fate is Fate.FINISHING:
            return self._finishing(trial, stop)
        if trial.state not in (TrialState.QUEUED, TrialState.RUNNING):
            return None
        if stop is not None and stop.fate is Fate.HELD:
            return Hold(trial.trial_id, stop)  # whoever led died before it had left
        if stop is not None and (stop.fate is not Fate.PROMOTED or top <= stop.rung):
            return None
        behind = self._behind(trial, top)
        if behind is None or not self._pruner_agrees(trial, top, behind):
            return None
        return Hold(trial.trial_id, self._stop(trial, top, behind))

    def _held(self, trial: Trial, stop: EarlyStop) -> Verdict | None:
        """Promoted, finished, pruned, or held still. Optuna's pruners take nothing back: promotion is by the bar."""
        if self.resting:
            return None  # people have paused whatever could go on
        if self._is_among_the_best(trial, stop.rung):
            return GoOn(trial.trial_id, Fate.PROMOTED)
        if stop.drawn:
            return None if self.waits else GoOn(trial.trial_id, Fate.FINISHING)
        open_still = self.lowest_coming is not None and self.lowest_coming < stop.rung
        return None if open_still else Prune(trial.trial_id, stop.why)

    def _finishing(self, trial: Trial, stop: EarlyStop) -> Verdict | None:
        """Promoted too if it would have been had it not been drawn: else those that are finished would not stand for
        all that are stopped."""
        stands = trial.state in (TrialState.QUEUED, TrialState.RUNNING, TrialState.COMPLETED)
        return GoOn(trial.trial_id, Fate.PROMOTED) if stands and self._is_among_the_best(trial, stop.rung) else None

    def _is_among_the_best(self, trial: Trial, rung: int) -> bool:
        """Whether the trial's setting has come up to the bar of a rung. That it is less surely behind than it was, as
        another setting is the bar by now, promotes nobody: so most of what is stopped late would end up trained."""
        standings, ranking = self._on(rung)
        candidate = standings.get(setting_of(trial))
        return candidate is None or not ranking or candidate.accuracy >= self.policy.rule.bar(ranking).accuracy

    def _behind(self, trial: Trial, rung: int) -> _Behind | None:
        """None if the trial may go on, as far as anybody can say."""
        mark = self.marks[trial.trial_id].get(rung)
        if mark is None:
            return None
        standings, ranking = self._on(rung)
        if len(ranking) < self.policy.min_trials and _count(ranking) < self.policy.min_trials:
            return None
        setting = setting_of(trial)
        candidate, bar = standings[setting], self.policy.rule.bar(ranking)
        if candidate.accuracy >= bar.accuracy:
            return None
        p = self.policy.p_not_worse((setting, rung), candidate, bar)
        confidence = 0.0 if p is None else 1.0 - mark.looks * p
        return _Behind(mark, candidate, bar, confidence) if confidence >= self.policy.confidence else None

    def _pruner_agrees(self, trial: Trial, rung: int, behind: _Behind) -> bool:
        alpha, mark = (1.0 - self.policy.confidence) / behind.mark.looks, behind.mark
        return self.policy.rule.stops(trial.study_id, mark.level, behind.candidate, self._on(rung)[1], alpha)

    def _stop(self, trial: Trial, rung: int, behind: _Behind) -> EarlyStop:
        """`gpu_seconds` leave out what the trial holds between the evaluation and the end of its run."""
        return EarlyStop(
            policy=self.policy.rule.name,
            rung=rung,
            confidence=behind.confidence,
            gpu_seconds=trial.gpu_seconds - trial.stage_gpu_seconds + behind.mark.evaluation.device_seconds,
            why=self._in_words(behind),
            drawn=self._draw(trial),
        )

    def _in_words(self, behind: _Behind) -> str:
        seeds, rule = len(behind.candidate.reached), self.policy.rule
        over = f" over {seeds} seeds" if seeds > 1 else ""
        return (
            f"stopped at {behind.mark.spent:.4g} {self.policy.ladder.resource.replace('_', '-')} by {rule.name}: "
            f"{100 * behind.candidate.accuracy:.1f} % dev{over} against {100 * behind.bar.accuracy:.1f} % of "
            f"{rule.bar_in_words()}; confidence {_percent(behind.confidence)} %"
        )

    def _draw(self, trial: Trial) -> bool:
        """Whether the next trial that is stopped is finished all the same: every k-th of them, from a start that is
        drawn once, so that each has the same chance and a small study gets its share too."""
        share, start = self.policy.finish_share, Random(f"{self.policy.seed}:{trial.study_id}").random()
        before = self.stopped
        self.stopped += 1
        return math.floor(start + (before + 1) * share) > math.floor(start + before * share)

    def _on(self, rung: int) -> tuple[dict[Setting, Standing], list[Standing]]:
        """Who stands on a rung, by setting, and the best first of those with enough seeds there to be held to: what a
        single lucky one sets as the bar holds nobody."""
        if rung not in self.rungs:
            standings = {
                setting: self.policy.standing(
                    (setting, rung), self.made_of[setting], partial(self._standing, own, rung)
                )
                for setting, own in self.members.items()
            }
            standings = {setting: standing for setting, standing in standings.items() if standing.reached}
            self.rungs[rung] = standings, best_first([one for one in standings.values() if enough_seeds(one)])
        return self.rungs[rung]

    def _standing(self, members: Sequence[Trial], rung: int) -> Standing:
        reached: dict[int, Evaluation] = {}
        planned: set[int] = set()
        for trial in members:
            evaluation = self._reached(trial, rung)
            if evaluation is not None:
                reached.setdefault(trial.variant.seed, evaluation)
            if evaluation is not None or (_may_come(trial) and self.top[trial.trial_id] < rung):
                planned.add(trial.variant.seed)
        return Standing(
            number=members[0].number,
            reached=reached,
            planned=frozenset(planned),
            problems=_dev_problems(members[0]),
            accuracy=fmean(evaluation.accuracy for evaluation in reached.values()) if reached else 0.0,
        )

    def _reached(self, trial: Trial, rung: int) -> Evaluation | None:
        """What the trial stands on the rung with. One that has completed below it stands there with what it ended with:
        more of the resource would not have changed it. What is finished for the record competes on no rung behind the
        one that it was stopped on."""
        stop = trial.stopped
        if stop is not None and stop.fate in (Fate.HELD, Fate.FINISHING) and rung > stop.rung:
            return None
        mark = self.marks[trial.trial_id].get(rung)
        if mark is not None:
            return mark.evaluation
        ended = trial.state is TrialState.COMPLETED and self.top[trial.trial_id] < rung
        return trial.evaluations[-1] if ended and trial.evaluations else None


def _count(ranking: Sequence[Standing]) -> int:
    """Trials."""
    return sum(len(standing.reached) for standing in ranking)


def setting_of(trial: Trial) -> Setting:
    """What trials that differ in the seed only have in common."""
    return trial.variant.algorithm, trial.variant.setting


def _may_come(trial: Trial) -> bool:
    """Whether the trial may reach further rungs by itself: it runs, waits, or a person has paused it."""
    fate = None if trial.stopped is None else trial.stopped.fate
    return trial.state in _MAY_COME and fate not in (Fate.HELD, Fate.FINISHING)


def _dev_problems(trial: Trial) -> int:
    return int(trial.variant.config.get("task", {}).get("split", {}).get("dev", 0))


def _percent(confidence: float) -> str:
    """Never 100: that is nobody's confidence."""
    return f"{min(99.9, math.floor(1000 * confidence) / 10):g}"
