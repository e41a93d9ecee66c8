"""What a setting is called: by what tells it from the others. What all trials have is said once, under a table."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.report.searched import shortened


def common_overrides(each: Iterable[Sequence[str]]) -> frozenset[str]:
    """The overrides that all of several trials have: nobody is told from another by them. None of one trial alone."""
    every = [frozenset(overrides) for overrides in each]
    return frozenset.intersection(*every) if len(every) > 1 else frozenset()


def common_in(document: Mapping[str, Any]) -> frozenset[str]:
    """Those of a report's trials."""
    return common_overrides(trial["overrides"] for trial in document["trials"])


def setting_name(overrides: Sequence[str], common: Collection[str]) -> str:
    """The overrides of a setting without those that all trials have in `common`."""
    return shortened([text for text in overrides if text not in common]) or "as composed"


def common_notes(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The line that says what all trials have; none where they have nothing in common."""
    common, first = common_in(document), next((trial["overrides"] for trial in document["trials"]), ())
    told = shortened([text for text in first if text in common])
    return (f"All trials: {told}.",) if told else ()
