"""The winner of a run, trained again to its full budget, by itself and by the solo stages, and measured on problems
that no split of the study holds: neither trained on, nor evaluated on, nor tested on by anybody.

    python -m tests.bench.peers.winner FOLDER NUMBER      prints the measurement as JSON
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.schema.training import SplitConfig, StageConfig, stage_config
from tests.bench.peers.payload import Course, train
from tests.bench.peers.study import stages_of

LEAST_PROBLEMS, MOST_PROBLEMS = 1_000, 2_000
DRAWS = 40_000


def fresh_problems(config: StageConfig, cache: Path) -> tuple[Any, list[Any]]:
    """The study's task, and up to `MOST_PROBLEMS` problems of its kind that are in none of its splits, of another seed.

    Raises ValueError if there are fewer than `LEAST_PROBLEMS`.
    """
    from experiments.tasks import load_task
    from experiments.tasks.splits import canonical_key

    task = load_task(config.task, cache)
    known = {
        canonical_key(problem.prompt, config.task.commutative)
        for split in (task.supervised, task.rl, task.dev, task.test)
        for problem in split
    }
    other = replace(config.task, seed=config.task.seed + 1, size=DRAWS, split=SplitConfig(supervised=0, dev=1, test=1))
    drawn = load_task(other, cache)
    fresh = [p for p in drawn.rl if canonical_key(p.prompt, config.task.commutative) not in known]
    if len(fresh) < LEAST_PROBLEMS:
        raise ValueError(f"only {len(fresh)} problems are in no split; use a smaller task.size than {config.task.size}")
    return task, fresh[:MOST_PROBLEMS]


def measure(folder: Path, number: int) -> dict[str, Any]:
    """Accuracy on fresh problems with its 95 % Wilson interval, and the dev accuracy that it came with."""
    from experiments.evaluate import evaluate
    from experiments.judging import Judge
    from experiments.models.decoder import load_decoder
    from experiments.tasks import CharTokenizer

    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    course = Course(stages_of(folder, number))
    output = train(course, folder / "work" / "winner", folder / "cache")
    config = stage_config(course.stages[-1].config)
    task, problems = fresh_problems(config, folder / "cache")
    decoder = load_decoder(Path(output)).float()
    result = evaluate(decoder, Judge(task, CharTokenizer()), problems, config.evaluation.batch_size)
    return {
        "accuracy": result.accuracy,
        "low": result.low,
        "high": result.high,
        "problems": len(problems),
        "dev_accuracy": course.metrics["dev_accuracy"],
    }


if __name__ == "__main__":
    print("RESULT " + json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
