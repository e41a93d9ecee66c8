"""python -m tests.bench.stopping [--seats 8,16] [RECORD ...]: every stopping rule on recorded curves."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.stopping import STOPPINGS, StoppingPolicy
from orchestrator.sweep import compose_study
from tests.bench.stopping.asha import replay_asha
from tests.bench.stopping.curves import FOLDER, read
from tests.bench.stopping.replay import replay

RULES = tuple(name for name in STOPPINGS if name != "never")
ASHA = "tune_asha"


def config_of(rule: str, overrides: Sequence[str]) -> Mapping[str, Any]:
    """The group `stopping` as a study has it."""
    return compose_study(
        ["study=peers", f"stopping={rule}", "algorithm=sft", "optimizer.lr=1e-3", "seed=0", *overrides]
    ).config["stopping"]


def _policy(rule: str, overrides: Sequence[str]) -> StoppingPolicy:
    return STOPPINGS[rule](config_of(rule, ["stopping.resource=steps", "stopping.min_resource=40", *overrides]))


def main(given: Sequence[str] | None = None) -> None:
    """Prints a line per record, rule and number of seats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", nargs="*", default=sorted(map(str, FOLDER.glob("*.json"))))
    parser.add_argument("--rules", default=",".join((*RULES, ASHA)))
    parser.add_argument(
        "--seeds-apart", action="store_true", help="all trials of one seed come before those of the next"
    )
    parser.add_argument("--seats", default="8,16")
    parser.add_argument("--set", nargs="*", default=[], help="overrides, such as stopping.confidence=0.95")
    arguments = parser.parse_args(given)
    heads = ("trained %", "finishing %", "stopped", "promoted", "winner", "kept", "regret %", "lost %")
    print(f"{'record':12}{'rule':20}{'seats':>6}" + "".join(f"{head:>12}" for head in heads))
    for record in arguments.records:
        curves = read(Path(record))
        if arguments.seeds_apart:
            curves.sort(key=lambda curve: curve.seed)
        for rule in arguments.rules.split(","):
            for seats in map(int, arguments.seats.split(",")):
                r = replay_asha(curves, seats) if rule == ASHA else replay(curves, _policy(rule, arguments.set), seats)
                shares = (f"{100 * share:12.1f}" for share in (r.trained, r.finishing))
                counts = (f"{count!s:>12}" for count in (r.stopped, r.promoted, r.winner, r.kept))
                costs = (f"{100 * cost:12.1f}" for cost in (r.regret, r.lost))
                print(f"{Path(record).stem:12}{rule:20}{seats:6}", *shares, *counts, *costs, sep="", flush=True)


if __name__ == "__main__":
    main()
