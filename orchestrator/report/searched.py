"""What a search has tried so far, and the best of it: for the live view, the report and the plan."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from orchestrator.redaction import redacted_override
from orchestrator.schema import Study, Trial
from orchestrator.search.points import PointState, best_point, is_search, known_points, unmeasured

DIGITS: Final = 4
"""Significant digits of a number in a table. Every form for programs has all of them."""


def search_entry(study: Study, trials: Sequence[Trial]) -> dict[str, Any] | None:
    """What was searched, as plain data (see the README beside this file); None for a grid."""
    if not is_search(study):
        return None
    config = study.config["search"]
    known = known_points(study, trials)
    best = best_point(known, config)
    return {
        "sampler": config["name"],
        "metric": config["metric"],
        "direction": config["direction"],
        "seed": config["seed"],
        "budget": config["trials"],
        "asked": sum(not trial.cloned_from for trial in trials),
        "points": {str(state): sum(point.state is state for point in known) for state in PointState},
        "unmeasured": unmeasured(study, trials) or None,
        "space": [redacted_override(text) for text in study.sweep],
        "best": None
        if best is None
        else {
            "point": [redacted_override(text) for text in best.point],
            "value": best.value,
            "numbers": list(best.numbers),
        },
    }


def search_line(entry: Mapping[str, Any]) -> str:
    """`tpe asked 24 of 64 trials, best so far dev_accuracy 0.912 at optimizer.lr=0.001235 (#5)`."""
    line = f"{entry['sampler']} asked {entry['asked']} of {entry['budget']} trials"
    best = entry["best"]
    if best is None:
        return f"{line}, and asks for no more ({entry['unmeasured']})" if entry["unmeasured"] else line
    numbers = ", ".join(f"#{number}" for number in best["numbers"])
    return f"{line}, best so far {entry['metric']} {best['value']:.{DIGITS}g} at {shortened(best['point'])} ({numbers})"


def shortened(overrides: Sequence[str]) -> str:
    """Overrides in a row, with the numbers that a sampler drew cut to `DIGITS` digits."""
    return " ".join(_shortened(text) for text in overrides)


def _shortened(override: str) -> str:
    key, _, value = override.partition("=")
    mantissa = value.lower().partition("e")[0].strip("+-").replace(".", "").lstrip("0")
    if len(mantissa) <= 2 * DIGITS or not mantissa.isdecimal() or value.lstrip("+-").isdecimal():
        return override
    return f"{key}={float(value):.{DIGITS}g}"
