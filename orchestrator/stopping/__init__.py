"""When is enough. A stopping policy is a pure function from a study's trials to verdicts on them."""

from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.stopping.hyperband import Hyperband
from orchestrator.stopping.judging import EarlyStopping
from orchestrator.stopping.median import Median
from orchestrator.stopping.never import never
from orchestrator.stopping.policy import GoOn, Hold, Prune, StoppingPolicy, Verdict
from orchestrator.stopping.rule import Rule
from orchestrator.stopping.rungs import Ladder
from orchestrator.stopping.successive_halving import SuccessiveHalving
from orchestrator.stopping.wilcoxon import Wilcoxon

Config = Mapping[str, Any]


def _early(rule: Rule, config: Config) -> StoppingPolicy:
    ladder = Ladder(
        resource=config["resource"],
        lowest=config["min_resource"],
        factor=config["rung_factor"],
        grace=config["grace"],
        grace_unit=config["grace_unit"],
    )
    return EarlyStopping(
        rule=rule,
        ladder=ladder,
        min_trials=config["min_trials"],
        confidence=config["confidence"],
        finish_share=config["finish_share"],
        seed=config["seed"],
    )


# From the resolved config of the group `stopping` to its policy.
STOPPINGS: Mapping[str, Callable[[Config], StoppingPolicy]] = {
    "never": lambda config: never,
    "successive_halving": lambda config: _early(SuccessiveHalving(config["reduction_factor"]), config),
    "hyperband": lambda config: _early(Hyperband(config["reduction_factor"], config["brackets"]), config),
    "median": lambda config: _early(Median(), config),
    "wilcoxon": lambda config: _early(Wilcoxon(), config),
}

__all__ = ["STOPPINGS", "EarlyStopping", "GoOn", "Hold", "Prune", "StoppingPolicy", "Verdict", "never"]
