"""Whole learning curves of a study, each trial trained to its full budget: what stopping rules are tried on.

    python -m tests.bench.stopping.curves --name peers-0 [study=peers ...]      records/curves/peers-0.json

The stages are the project's own, fused in stacks of `WIDTH` on one core, without a cluster and a store.
"""

import argparse
import importlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.schema import Assignment, DeviceKind, Evaluation, Outcome, Stage, Variant
from orchestrator.sweep import compose_study

FOLDER = Path(__file__).parents[1] / "records" / "curves"
WIDTH = 16
_FOLD = "eval/fold/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A trial's evaluations from step 0 to its end. accuracy: on held-out problems, at the end. problems: of an
    evaluation. A step counts as a device-second: a stack has none of a member alone."""

    algorithm: str
    seed: int
    overrides: tuple[str, ...]
    budget_steps: int
    problems: int
    evaluations: tuple[Evaluation, ...]
    accuracy: float
    dev_accuracy: float


@dataclass
class _Listening:
    """A `Channel` that keeps evaluations."""

    evaluations: list[Evaluation] = field(default_factory=list)

    def report(self, step: int, metrics: Mapping[str, float], progress: float) -> None:
        if "eval/accuracy" in metrics:
            folds = [value for name, value in metrics.items() if name.startswith(_FOLD)]
            at = float(step), metrics["train/tokens_seen"]
            self.evaluations.append(Evaluation(*at, 0.0, metrics["eval/accuracy"], tuple(folds)))

    def saved(self, step: int) -> None:
        pass

    def measured(self, memory_bytes: int, host_memory_bytes: int, utilisation: float | None) -> None:
        pass

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    def stop_requested(self) -> bool:
        return False


@dataclass
class _Stack:
    """A `Stack` whose members are all there when it begins."""

    waiting: list[tuple[Assignment, _Listening]]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def arrivals(self, timeout_s: float = 0.0) -> list[tuple[Assignment, _Listening]]:
        come, self.waiting = self.waiting, []
        return come

    def ended(self, bundle_id: str, outcome: Outcome) -> None:
        self.outcomes[bundle_id] = outcome

    def failed(self, bundle_id: str, error: Exception) -> None:
        raise RuntimeError(bundle_id) from error


def record(variants: Sequence[Variant], work: Path) -> list[Curve]:
    """Trains all variants. Raises RuntimeError if one fails, ValueError for stages that can't be fused."""
    outputs: dict[str, str] = {}
    for stage in {stage.key: stage for variant in variants for stage in variant.stages[:-1]}.values():
        assignment = _assignment(work, stage.key, stage, outputs.get(stage.parent_key, ""))
        _entrypoint(stage.entrypoint)(assignment, _Listening())
        outputs[stage.key] = assignment.output_dir
    groups: dict[str, list[Variant]] = {}
    for variant in variants:
        groups.setdefault(variant.algorithm, []).append(variant)
    curves: dict[str, Curve] = {}
    for members in groups.values():
        for first in range(0, len(members), WIDTH):
            curves |= _together(members[first : first + WIDTH], work, outputs)
            print(f"{len(curves)} of {len(variants)} curves", flush=True)
    return [curves[variant.key] for variant in variants]


def _together(members: Sequence[Variant], work: Path, outputs: Mapping[str, str]) -> dict[str, Curve]:
    channels = {member.key: _Listening() for member in members}
    stages = {member.key: member.stages[-1] for member in members}
    seats = [(_assignment(work, k, s, outputs.get(s.parent_key, "")), channels[k]) for k, s in stages.items()]
    stack = _Stack(seats)
    _entrypoint(members[0].stages[-1].fused_entrypoint)(stack)
    return {
        member.key: Curve(
            algorithm=member.algorithm,
            seed=member.seed,
            overrides=member.overrides,
            budget_steps=member.stages[-1].budget_steps,
            problems=member.config["task"]["split"]["dev"],
            evaluations=tuple(channels[member.key].evaluations),
            accuracy=stack.outcomes[member.key].metrics["accuracy"],
            dev_accuracy=stack.outcomes[member.key].metrics["dev_accuracy"],
        )
        for member in members
    }


def _assignment(work: Path, name: str, stage: Stage, parent: str) -> Assignment:
    place = work / name
    place.mkdir(parents=True)
    return Assignment(
        bundle_id=name,
        stage=stage,
        output_dir=str(place / "output"),
        parent_dir=parent,
        checkpoint_dir=str(place / "checkpoint"),
        cache_dir=str(work / "cache"),
        device_kind=DeviceKind.CPU,
        device_indexes=(0,),
        share=1.0,
        threads=1,
        memory_bytes=0,
    )


def _entrypoint(text: str) -> Any:
    module, _, name = text.partition(":")
    return getattr(importlib.import_module(module), name)


def write(path: Path, curves: Sequence[Curve], about: Mapping[str, Any]) -> None:
    """One line a curve: [algorithm, seed, own overrides, budget, problems, accuracy, dev accuracy, evaluations]."""
    shared = set.intersection(*(set(curve.overrides) for curve in curves))
    lines = [
        json.dumps(
            [
                curve.algorithm,
                curve.seed,
                [text for text in curve.overrides if text not in shared],
                curve.budget_steps,
                curve.problems,
                curve.accuracy,
                curve.dev_accuracy,
                [[e.step, e.tokens, round(e.accuracy, 6), [round(f, 6) for f in e.folds]] for e in curve.evaluations],
            ]
        )
        for curve in curves
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"about": ' + json.dumps(about) + ',\n"curves": [\n' + ",\n".join(lines) + "\n]}\n")


def read(path: Path) -> list[Curve]:
    """The inverse of `write`, but for the overrides that all have."""
    return [
        Curve(
            algorithm=algorithm,
            seed=seed,
            overrides=tuple(overrides),
            budget_steps=budget,
            problems=problems,
            accuracy=accuracy,
            dev_accuracy=dev,
            evaluations=tuple(
                Evaluation(step, tokens, step, right, tuple(f)) for step, tokens, right, f in evaluations
            ),
        )
        for algorithm, seed, overrides, budget, problems, accuracy, dev, evaluations in json.loads(path.read_text())[
            "curves"
        ]
    ]


def main(given: Sequence[str] | None = None) -> None:
    """Composes the study, trains it, and keeps the curves."""
    from tests.bench.provenance import provenance

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the record")
    parser.add_argument("--folder", default=str(FOLDER))
    parser.add_argument("overrides", nargs="*", default=["study=peers"])
    arguments = parser.parse_args(given)
    about = provenance(arguments, "python -m tests.bench.stopping.curves")
    variants = compose_study(arguments.overrides).variants
    with tempfile.TemporaryDirectory(prefix="curves-") as work:
        write(Path(arguments.folder) / f"{arguments.name}.json", record(variants, Path(work)), about)


if __name__ == "__main__":
    main()
