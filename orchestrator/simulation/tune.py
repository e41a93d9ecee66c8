"""Search for the packing policy, and its knobs, that serves a workload best: Optuna proposes, the simulator answers.

Every policy is tried with its defaults first, so the best found is never worse than what is there already. What was
tried is kept: the same search goes on where it was interrupted, as long as the workload and the code are the same. A
setting that was simulated before is answered from there.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from orchestrator.config import ConfigError
from orchestrator.keys import code_digest
from orchestrator.packing import PACKINGS
from orchestrator.simulation.composing import ComposedRun, compose_runs
from orchestrator.simulation.knobs import RANGES, OneOf, Real, Value
from orchestrator.simulation.pool import run_all
from orchestrator.simulation.results import Result
from orchestrator.sweep.overrides import combinations, parse_overrides, text_of, value_of
from orchestrator.validation.ranges import OVERSUBSCRIPTION as OVERSUBSCRIPTION_CHECK

if TYPE_CHECKING:
    import optuna

Setting = Mapping[str, Value]
"""`packing` is the policy's name, `OVERSUBSCRIPTION` the cluster's, the others are the policy's knobs."""
OVERSUBSCRIPTION = "cluster.oversubscription"
# After so many proposals in a row that were tried before, there is nothing new to be expected.
_REPEATED_AT_MOST = 30
# Policies that a cluster is not run with: a yardstick from below, and one from above.
_YARDSTICKS = ("random", "optimal")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A field of `Result`, and which way is better."""

    field: str
    maximize: bool
    needs: str = "trace.protocol=replay"


OBJECTIVES: Mapping[str, Objective] = {
    "experiments_per_gpu_hour": Objective(field="experiments_per_gpu_hour", maximize=True),
    "experiments_per_cluster_gpu_hour": Objective(field="experiments_per_cluster_gpu_hour", maximize=True),
    "unallocated": Objective(field="unallocated_share_at_100", maximize=False, needs="trace.protocol=arrivals_only"),
    "jct_mean": Objective(field="jct_mean_s", maximize=False),
    "makespan": Objective(field="makespan_s", maximize=False),
}
# What is kept of every setting beside its objective.
_MEASURES = (
    "experiments_per_gpu_hour",
    "experiments_per_cluster_gpu_hour",
    "makespan_s",
    "jct_mean_s",
    "jct_p99_s",
    "wait_mean_s",
    "utilisation",
    "unallocated_share_at_100",
    "unallocated_share_at_130",
    "fragmentation",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A setting, the objective's value, and means of `Result` fields over the runs it was averaged over."""

    setting: Setting
    value: float
    measures: Mapping[str, float]

    @property
    def policy(self) -> str:
        return str(self.setting["packing"])

    @property
    def knobs(self) -> dict[str, Value]:
        return {name: value for name, value in self.setting.items() if name not in ("packing", OVERSUBSCRIPTION)}

    @property
    def oversubscription(self) -> float | None:
        """None if it was not searched."""
        found = self.setting.get(OVERSUBSCRIPTION)
        return None if found is None else float(found)

    def overrides(self) -> list[str]:
        """What to give to `serve` or `simulate`."""
        knobs = [f"packing.{name}={_written(value)}" for name, value in self.knobs.items()]
        promised = self.oversubscription
        return [f"packing={self.policy}", *knobs, *([] if promised is None else [f"{OVERSUBSCRIPTION}={promised!r}"])]


class Search:
    """One search. `overrides` are those of `simulate`: `packing=a,b` names the policies to choose from (default: all
    but the yardsticks), `packing.knob=value` holds a knob, and the results of all that is swept besides are averaged.

    storage: an SQLite file that keeps what was tried; None keeps nothing. oversubscription: searched beside the knobs.
    Raises ConfigError and TraceError.
    """

    def __init__(
        self,
        overrides: Sequence[str],
        objective: str,
        *,
        storage: Path | None = None,
        skip_bad_rows: bool = False,
        jobs: int = 1,
        oversubscription: Real | None = None,
    ) -> None:
        self.objective = OBJECTIVES[objective]
        self._skip_bad_rows = skip_bad_rows
        self._jobs = jobs
        self._oversubscription = oversubscription
        self.policies, self._held, self._others = _split(overrides)
        # Everything that can be refused is refused before anything is simulated.
        self._runs = self._composed()
        if oversubscription is not None:
            self._check_oversubscription(oversubscription)
        self._study = self._opened(storage)

    def run(self, count: int, told: Callable[[int, Tried], None]) -> None:
        """Try settings until `count` different ones were tried in all, or nothing new is proposed any more; `told`
        hears of each new one, with how many there are by then."""
        import optuna

        repeated = 0
        while (done := len(self.tried())) < count and repeated < _REPEATED_AT_MOST:
            # Anew each time, so that a search that goes on doesn't begin with the same proposals again.
            self._study.sampler = optuna.samplers.TPESampler(seed=len(self._study.get_trials(deepcopy=False)))
            trial = self._study.ask()
            try:
                setting = self._setting(trial)
                value, measures = self._answer(setting)
            except BaseException:
                self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
                raise
            trial.set_user_attr("setting", dict(setting))
            trial.set_user_attr("measures", measures)
            self._study.tell(trial, value)
            new = len(self.tried()) > done
            repeated = 0 if new else repeated + 1
            if new:
                told(done + 1, Tried(setting=setting, value=value, measures=measures))

    def tried(self) -> list[Tried]:
        """Every different setting, the best first; of equal ones the one that was tried first."""
        found: dict[str, Tried] = {}
        for trial in self._finished():
            tried = Tried(
                setting=trial.user_attrs["setting"], value=trial.values[0], measures=trial.user_attrs["measures"]
            )
            found.setdefault(json.dumps(tried.setting, sort_keys=True), tried)
        return sorted(found.values(), key=lambda tried: -tried.value if self.objective.maximize else tried.value)

    def config_of(self, tried: Tried) -> dict[str, Any]:
        """The whole `packing` config of a setting, defaults included."""
        return {**self._runs[tried.policy][0].config["packing"], **tried.knobs}

    # --- one setting -------------------------------------------------------------------------------------------------

    def _setting(self, trial: "optuna.Trial") -> Setting:
        policy = str(trial.suggest_categorical("packing", list(self.policies)))
        ranges = {name: r for name, r in RANGES.get(policy, {}).items() if name not in self._held}
        setting = {"packing": policy} | {name: r.suggest(trial, f"{policy}.{name}") for name, r in ranges.items()}
        if self._oversubscription is not None:
            setting[OVERSUBSCRIPTION] = self._oversubscription.suggest(trial, OVERSUBSCRIPTION)
        return setting

    def _answer(self, setting: Setting) -> tuple[float, dict[str, float]]:
        for tried in self.tried():
            if tried.setting == setting:
                return tried.value, dict(tried.measures)
        results = run_all(
            self._runs_of(setting), jobs=self._jobs, skip_bad_rows=self._skip_bad_rows, done=lambda run, result: None
        )
        measures = {name: mean for name in _MEASURES if (mean := _mean(results, name)) is not None}
        if self.objective.field not in measures:
            remedy = f"this workload's protocol doesn't say it; give {self.objective.needs}"
            raise ConfigError("--objective", self.objective.field, remedy)
        return measures[self.objective.field], measures

    def _runs_of(self, setting: Setting) -> list[ComposedRun]:
        """One for each combination of what is swept besides."""
        tried = Tried(setting=setting, value=0.0, measures={})
        promised = tried.oversubscription
        cluster = {} if promised is None else {"oversubscription": promised}
        return [
            replace(
                run,
                config={
                    **run.config,
                    "packing": {**run.config["packing"], **tried.knobs},
                    "cluster": {**run.config["cluster"], **cluster},
                },
            )
            for run in self._runs[tried.policy]
        ]

    def _composed(self) -> dict[str, tuple[ComposedRun, ...]]:
        """The runs of every policy with its defaults, and with the knobs that are held where it has them."""
        runs: dict[str, tuple[ComposedRun, ...]] = {}
        for run in compose_runs([*self._others, f"packing={','.join(self.policies)}"]):
            runs.setdefault(run.config["packing"]["name"], ())
            runs[run.config["packing"]["name"]] += (run,)
        for name, text in self._held.items():
            if not any(name in of_policy[0].config["packing"] for of_policy in runs.values()):
                remedy = f"none of the policies has such a knob: {', '.join(self.policies)}"
                raise ConfigError(f"packing.{name}", text.partition("=")[2], remedy)
        for policy, (first, *_) in runs.items():
            held = [text for name, text in self._held.items() if name in first.config["packing"]]
            if held:
                runs[policy] = compose_runs([*self._others, f"packing={policy}", *held])
        return runs

    def _check_oversubscription(self, searched: Real) -> None:
        where, what = "--oversubscription", f"{searched.low:g}:{searched.high:g}"
        accepts, remedy = OVERSUBSCRIPTION_CHECK
        if not (accepts(searched.low) and accepts(searched.high) and searched.low < searched.high):
            raise ConfigError(where, what, f"give LOW:HIGH; {remedy}")
        configs = [run.config for runs in self._runs.values() for run in runs]
        if given := next((c["cluster"]["oversubscription"] for c in configs if _promises(c)), None):
            raise ConfigError(OVERSUBSCRIPTION, given, f"leave it out to have it searched by {where}")
        if not all(config["interference"]["slowdowns"] or config["cluster"]["slowdown"] for config in configs):
            remedy = "where nobody slows anybody down most is always best; add interference=post_training"
            raise ConfigError(where, what, remedy)

    # --- what was tried ----------------------------------------------------------------------------------------------

    def _finished(self) -> "list[optuna.trial.FrozenTrial]":
        import optuna

        return self._study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))

    def _opened(self, storage: Path | None) -> "optuna.Study":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            study_name=self._name(),
            storage=f"sqlite:///{storage}" if storage is not None else None,
            direction="maximize" if self.objective.maximize else "minimize",
            load_if_exists=True,
        )
        if not study.get_trials(deepcopy=False):
            for policy in self.policies:
                study.enqueue_trial({"packing": policy, **self._default_knobs(policy)})
        return study

    def _default_knobs(self, policy: str) -> dict[str, Value]:
        packing = self._runs[policy][0].config["packing"]
        ranges = {name: r for name, r in RANGES.get(policy, {}).items() if name not in self._held}
        searched = self._oversubscription
        promised: dict[str, Value] = {} if searched is None else {OVERSUBSCRIPTION: searched.low}
        return promised | {
            f"{policy}.{name}": r.values.index(packing[name]) if isinstance(r, OneOf) else packing[name]
            for name, r in ranges.items()
        }

    def _name(self) -> str:
        """The same for the same search over the same workload and code."""
        configs = {policy: [run.config for run in runs] for policy, runs in self._runs.items()}
        paths = {str(v) for run in self._runs[self.policies[0]] for v in run.config["trace"].values()}
        files = {path: _digest(Path(path)) for path in sorted(paths) if Path(path).is_file()}
        code = code_digest("orchestrator"), code_digest("cluster")
        promised = self._oversubscription and [self._oversubscription.low, self._oversubscription.high]
        text = json.dumps([self.objective.field, configs, files, self._skip_bad_rows, promised, code], sort_keys=True)
        return f"packing-{hashlib.sha256(text.encode()).hexdigest()[:20]}"


def _promises(config: Mapping[str, Any]) -> bool:
    return bool(config["cluster"]["oversubscription"] != 1.0)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split(overrides: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str], list[str]]:
    """The policies to choose from, the knobs that are held (text by name), and all other overrides."""
    policies = tuple(name for name in PACKINGS if name not in _YARDSTICKS)
    held: dict[str, str] = {}
    others: list[str] = []
    for override in parse_overrides(overrides):
        key = str(override.key_or_group)
        if key == "packing":
            chosen = (text for (text,) in combinations([override]))
            policies = tuple(dict.fromkeys(text.partition("=")[2] for text in chosen))
        elif key.startswith("packing."):
            if override.is_sweep_override():
                raise ConfigError(key, value_of(override), "give one value to hold it, or leave it out to search it")
            held[key.removeprefix("packing.")] = text_of(override)
        else:
            others.append(text_of(override))
    return policies, held, others


def _mean(results: Sequence[Result], name: str) -> float | None:
    values = [value for result in results if (value := getattr(result, name)) is not None]
    return fmean(values) if len(values) == len(results) else None


def _written(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)
