"""What a dry run shows: the variants of a sweep, the stages they share, and what each asks of a device.

And what whoever starts a study is told beforehand.
"""

from collections import Counter
from importlib.util import find_spec
from typing import Final

from rich.console import Console

from orchestrator.report.grid import Grid
from orchestrator.report.searched import shortened
from orchestrator.report.settings import common_overrides
from orchestrator.report.table import print_grid
from orchestrator.schema import DeviceKind
from orchestrator.schema.training import RolloutEngineName
from orchestrator.search.asking import budget
from orchestrator.search.searching import StudySearch
from orchestrator.submission import Submission
from orchestrator.sweep import Choices, Dimension, Space

FIRST_POINTS = 5

ASKED_NOTE: Final = "share, GiB: of each of its devices."


def notes_of(submission: Submission) -> list[str]:
    """What will not go as it was asked for, as far as this machine can tell."""
    notes = []
    configs = [variant.config for variant in submission.variants]
    engines = {config["rollout"]["engine"] for config in configs}
    if RolloutEngineName.vllm in engines and find_spec("vllm") is None:
        notes.append(
            "rollout.engine=vllm: vLLM is not installed here (pip install 'orchestrator[vllm]'); where a stage finds "
            "none either, this project's own engine decodes, and the stage's log says so"
        )
    if any(config["phases"]["name"] == "antiphase" for config in configs) and all(
        config["cluster"]["share_per_trial"] >= 1.0 for config in configs
    ):
        notes.append(
            "phases=antiphase: trials with a device of their own have nobody to take turns with; "
            "cluster.share_per_trial=0.5 lets two of them share one"
        )
    return notes


def print_plan(submission: Submission, kind: DeviceKind = DeviceKind.CPU) -> None:
    """Print one row per stage run, in the order in which they become ready, and a summary; of a search its space, its
    budget and the first points."""
    if submission.space is not None:
        _print_search(submission, submission.space)
        return
    demands = submission.demands(kind)
    stages = {stage.key: stage for variant in submission.variants for stage in variant.stages}
    users = Counter(stage.key for variant in submission.variants for stage in variant.stages)
    common = common_overrides(variant.overrides for variant in submission.variants)
    overrides = {v.key: " ".join(text for text in v.overrides if text not in common) for v in submission.variants}
    header = ("stage", "key", "trials", "steps", "devices", "share", "GiB", "overrides")
    rows = tuple(
        (
            stage.name,
            key[:8],
            str(users[key]),
            f"<= {stage.budget_steps}",
            str(demands[key].devices),
            f"{demands[key].share:g}",
            f"{demands[key].memory_bytes / 2**30:.2f}",
            overrides.get(key, "shared"),
        )
        for key, stage in sorted(stages.items(), key=lambda item: -users[item[0]])
    )
    count = len(submission.variants)
    title = f"{submission.name}: {count} variant{'s' if count != 1 else ''}, {len(stages)} stage runs"
    console = Console()
    told = " ".join(text for text in submission.variants[0].overrides if text in common)
    notes = (ASKED_NOTE, *([f"All variants: {told}."] if told else []))
    print_grid(Grid(title, header, rows, frozenset(header[2:7]), notes), console)
    saved = sum(users.values()) - len(stages)
    console.print(f"{saved} of {sum(users.values())} stage runs are saved by sharing. Nothing was started.")


def _print_search(submission: Submission, space: Space) -> None:
    search = submission.config["search"]
    points, seeds = budget(space, search), len(space.seeds)
    title = f"{submission.name}: {search['name']} search over {len(space.dimensions)} dimensions"
    rows = tuple((dimension.key, _drawn_from(dimension)) for dimension in space.dimensions)
    console = Console()
    print_grid(Grid(title, ("dimension", "drawn from"), rows), console)
    of_seeds = f" x {seeds} seeds ({' '.join(space.seeds)})" if seeds > 1 else ""
    console.print(
        f"Budget: {points} points{of_seeds} = {points * seeds} trials; {search['direction']} {search['metric']}."
    )
    drawn = StudySearch(submission.new_study(now=0.0)).further([], FIRST_POINTS, at=0.0)
    console.print(
        f"The first points, if none of them is over before the last of them is drawn (seed {search['seed']}):"
    )
    for number, variants in enumerate(drawn.variants):
        console.print(f"  {number}: {shortened(variants[0].overrides[: len(space.dimensions)])}", highlight=False)
    console.print("Nothing was started.")


def _drawn_from(dimension: Dimension) -> str:
    if isinstance(dimension, Choices):
        return f"one of {', '.join(dimension.texts)}"
    steps = "" if dimension.step is None else f" by {dimension.step:g}"
    return f"{dimension.low:g} to {dimension.high:g}{steps}{', logarithmic' if dimension.log else ''}"
