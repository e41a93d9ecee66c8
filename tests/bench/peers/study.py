"""The one study that every system runs, composed once and laid into a folder that all of them read.

<folder>/variants/0007.json    the stages of variant 7
<folder>/cache/                the problems, generated beforehand
<folder>/work/                 what the systems write: a line per piece of work, checkpoints, outputs
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

from orchestrator.schema import Stage, Variant

STUDY = "study=peers"


def spread(count: int, wanted: int) -> list[int]:
    """`wanted` of the numbers 0 to count - 1, evenly spread, so that few still are of all kinds."""
    if not 1 <= wanted <= count:
        raise ValueError(f"--variants {wanted}: the study has {count}; use 1 to {count}")
    return [i * count // wanted for i in range(wanted)]


def chosen(variants: Sequence[Variant], wanted: int) -> tuple[Variant, ...]:
    """Evenly spread ones of the study's; 0 takes all."""
    return tuple(variants[i] for i in spread(len(variants), wanted or len(variants)))


def lay_out(folder: Path, wanted: int) -> tuple[Variant, ...]:
    """Compose the study into `folder`, which every system then reads, and generate its problems."""
    from experiments.tasks import load_task
    from orchestrator.schema.training import stage_config
    from orchestrator.sweep import compose_study  # here, since a process that holds a device needs none of it

    variants = chosen(compose_study([STUDY]).variants, wanted)
    (folder / "variants").mkdir(parents=True, exist_ok=True)
    for number, variant in enumerate(variants):
        stages = [asdict(stage) for stage in variant.stages]
        (folder / "variants" / f"{number:04d}.json").write_text(json.dumps(stages))
    load_task(stage_config(variants[0].stages[0].config).task, folder / "cache")
    return variants


def numbers(folder: Path) -> range:
    """Of the variants in `folder`."""
    return range(len(list((folder / "variants").glob("*.json"))))


def stages_of(folder: Path, number: int) -> tuple[Stage, ...]:
    """The stages of a variant, in order."""
    return tuple(Stage(**stage) for stage in json.loads((folder / "variants" / f"{number:04d}.json").read_text()))


def unshared(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The same variants with stage keys of their own, so that no two share a stage."""
    return tuple(_unshared(variant, number) for number, variant in enumerate(variants))


def _unshared(variant: Variant, number: int) -> Variant:
    def own(key: str) -> str:
        return sha256(f"{key} {number}".encode()).hexdigest()[: len(key)]

    stages = tuple(replace(stage, key=own(stage.key), parent_key=own(stage.parent_key)) for stage in variant.stages)
    return replace(variant, key=stages[-1].key, stages=stages)


def distinguishing(variants: Sequence[Variant], number: int) -> list[str]:
    """Those overrides of a variant that not all have."""
    everybody = set.intersection(*(set(variant.overrides) for variant in variants))
    return [override for override in variants[number].overrides if override not in everybody]
