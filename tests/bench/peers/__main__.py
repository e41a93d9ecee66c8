"""python -m tests.bench.peers [--systems ...] [--repeats 3] [--variants 64] [--estimate]

Runs every system in turn, as often as asked, and keeps each run in records/peers.json as soon as it is over; runs that
are there already, of the same code, machine and number of variants, are not made again. See README.md.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.submission import git_revision
from tests.bench.peers.accounting import best, from_data, summary
from tests.bench.peers.record import kept_runs, table, write
from tests.bench.peers.run import SYSTEMS
from tests.bench.peers.study import distinguishing, lay_out

RECORD = Path(__file__).parents[1] / "records" / "peers.json"
ROOT = Path(__file__).parents[3]
LIMIT_S = 1800.0
SAMPLE = 8


def environment(extra: str) -> dict[str, str]:
    """The same for every system: one thread each, no GPU, nothing of the caller's own service. `extra` is a folder with
    packages that are not part of this project's environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ORCHESTRATOR_", "MLFLOW_"))}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join([str(ROOT), *([str(Path(extra).absolute())] if extra else [])])
    return {**kept, **threads, "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}


def code_revision() -> str:
    """The revision of the code; a record that was written meanwhile makes no other code of it."""
    command = ["git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!tests/bench/records"]
    clean = not subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return git_revision().removesuffix("+dirty" if clean else "")


def called(command: Sequence[str], extra: str, log: Path) -> float:
    """Seconds from its start to its exit. Raises RuntimeError, with the end of what it said, if it fails."""
    with log.open("wb") as stream:
        began = time.perf_counter()
        code = subprocess.run(
            command, stdout=stream, stderr=subprocess.STDOUT, env=environment(extra), cwd=ROOT, timeout=LIMIT_S
        ).returncode
        wall_s = time.perf_counter() - began
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code}:\n{log.read_text(errors='replace')[-4000:]}")
    return wall_s


def run_once(system: str, wanted: int, work: Path, extra: str) -> dict[str, Any]:
    """One run of a system in a fresh folder: its numbers, and who won."""
    folder = work / "study"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    variants = lay_out(folder, wanted)
    module = [sys.executable, "-m", "tests.bench.peers.run"]
    wall_s = called([*module, system, str(folder)], extra, work / f"{system}.log")
    experiments, holds = from_data(json.loads((folder / "result.json").read_text()))
    won = best(experiments)
    return {
        **summary(experiments, holds, devices=len(os.sched_getaffinity(0)), wall_s=wall_s),
        "winner": won.number,
        "winner_overrides": distinguishing(variants, won.number),
        "winner_dev_accuracy": won.dev_accuracy,
    }


def measured_winner(number: int, wanted: int, work: Path, extra: str) -> dict[str, Any]:
    """See `winner.measure`."""
    folder = work / "winner"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    lay_out(folder, wanted)
    log = work / "winner.log"
    called([sys.executable, "-m", "tests.bench.peers.winner", str(folder), str(number)], extra, log)
    line = next(line for line in log.read_text().splitlines() if line.startswith("RESULT "))
    measured = json.loads(line.removeprefix("RESULT "))
    return {
        "winner_accuracy": measured["accuracy"],
        "winner_low": measured["low"],
        "winner_high": measured["high"],
        "winner_problems": measured["problems"],
        "winner_retrained_dev_accuracy": measured["dev_accuracy"],
    }


def estimate(systems: Sequence[str], arguments: argparse.Namespace, work: Path) -> None:
    """Runs every system on a few variants and prints how long the benchmark would take. An upper estimate: it takes
    each variant to cost as much among many as among few, and a rule that stops stops more of many."""
    total_s = 0.0
    for system in systems:
        few = run_once(system, min(SAMPLE, arguments.variants), work, arguments.packages)
        held_s = few["cluster_device_s"] / len(os.sched_getaffinity(0))
        all_s = few["wall_s"] - held_s + held_s * arguments.variants / few["decided"]
        total_s += all_s * arguments.repeats
        print(f"{system:15} {few['wall_s']:6.1f} s for {few['decided']} variants; all: {all_s:6.0f} s", flush=True)
    print(f"{arguments.repeats} repeats of {arguments.variants} variants: {total_s / 60:.0f} minutes at most")


def remaining_s(todo: Sequence[tuple[int, str]], runs: Sequence[Mapping[str, Any]]) -> float:
    """Of what is to do, by the last walls of each system; a system without any is left out."""
    walls = {run["system"]: run["wall_s"] for run in runs}
    return sum(walls.get(system, 0.0) for _, system in todo)


def benchmark(systems: Sequence[str], arguments: argparse.Namespace, work: Path) -> None:
    """All runs that the record lacks, each kept as soon as it is over."""
    from tests.bench.provenance import provenance

    made = provenance(arguments, "python -m tests.bench.peers") | {"revision": code_revision()}
    same = {"revision": made["revision"], "variants": arguments.variants, "machine": made["machine"]}
    record = Path(arguments.record)
    runs = [] if arguments.fresh else kept_runs(record, same)
    there = {(run["repeat"], run["system"]) for run in runs}
    todo = [(r, s) for r in range(arguments.repeats) for s in systems if (r, s) not in there]
    if runs:
        print(f"{len(runs)} runs of {same['revision']} are in {record} already; --fresh makes them again", flush=True)
    known = {run["winner"]: {k: v for k, v in run.items() if k.startswith("winner_")} for run in runs}
    while todo:
        repeat, system = todo.pop(0)
        run = run_once(system, arguments.variants, work, arguments.packages)
        if run["winner"] not in known:
            known[run["winner"]] = measured_winner(run["winner"], arguments.variants, work, arguments.packages)
        of_winner = {k: v for k, v in known[run["winner"]].items() if k not in run}
        runs.append(
            {"system": system, "repeat": repeat, **run, **of_winner, **same, "load_average": os.getloadavg()[0]}
        )
        write(record, runs, {"systems": {s: about for s, (_, about) in SYSTEMS.items()}, **made})
        print(
            f"repeat {repeat} {system:15} {run['wall_s']:6.1f} s, {run['device_s']:6.1f} device-seconds, "
            f"{run['decided']} decided, {run['completed_equivalent']:.1f} completed-equivalent, winner "
            f"{' '.join(run['winner_overrides'])}: {100 * runs[-1]['winner_accuracy']:.1f} %; "
            f"{len(todo)} runs left, about {remaining_s(todo, runs) / 60:.0f} min",
            flush=True,
        )
    print("\n" + table(runs))


def main(given: Sequence[str] | None = None) -> int:
    """Estimate, or measure, print a table and keep the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default=",".join(SYSTEMS), help=f"some of {','.join(SYSTEMS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--variants", type=int, default=64, help="evenly spread ones of the study's 64")
    parser.add_argument("--record", default=str(RECORD))
    parser.add_argument("--packages", default="", help="a folder with hydra-ray-launcher, see the Makefile")
    parser.add_argument("--fresh", action="store_true", help="make all runs again")
    parser.add_argument("--estimate", action="store_true", help="run a few variants and say how long all would take")
    arguments = parser.parse_args(given)
    systems = arguments.systems.split(",")
    if unknown := set(systems) - set(SYSTEMS):
        parser.error(f"--systems {','.join(sorted(unknown))}: there is {', '.join(SYSTEMS)}")
    with tempfile.TemporaryDirectory(prefix="peers-") as work:
        (estimate if arguments.estimate else benchmark)(systems, arguments, Path(work))
    return 0


if __name__ == "__main__":
    sys.exit(main())
