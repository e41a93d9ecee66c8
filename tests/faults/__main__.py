"""SIGKILLs against a small study, and what is left of it.

    python -m tests.faults --kills 200 --cluster ray --seed 0

Kills the loop, the forkserver, a bundle, the tracker's writer and, on Ray, the node agent and the head, at random
moments, then checks that nothing was lost. Exit code 1 if something was. `--record` writes the figures.
"""

import argparse
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.submission import git_revision
from tests.faults import checks, victims
from tests.faults.harness import Plan, torment

RECORD = Path(__file__).parents[1] / "bench" / "records" / "faults.json"
MAX_LEDGER_ERROR = 0.02


def main() -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cluster", choices=("node", "ray"), default="ray")
    parser.add_argument("--record", action="store_true")
    arguments = parser.parse_args()
    ray = arguments.cluster == "ray"
    kinds = victims.KINDS if ray else tuple(k for k in victims.KINDS if k not in ("agent", "head"))
    # Ray takes some eight seconds to come up: killed more often than that, nothing would ever run.
    every_s = (1.0, 9.0) if ray else (0.3, 2.5)
    plan = Plan(
        kills=arguments.kills, seed=arguments.seed, cluster=arguments.cluster, kinds=kinds, every_s=every_s, trials=12
    )
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        outcome = torment(plan, home)
        error = checks.all_of_them(home, outcome.study, outcome.trials)
    figures = {
        "at": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "revision": git_revision(),
        "machine": platform.platform(),
        "cluster": plan.cluster,
        "seed": plan.seed,
        "kills": dict(outcome.killed),
        "trials_decided": len(outcome.trials),
        "seconds": round(outcome.seconds, 1),
        "ledger_error": round(error, 4),
    }
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")
    if arguments.record:
        records = json.loads(RECORD.read_text()) if RECORD.exists() else []
        others = [r for r in records if (r["cluster"], r["seed"]) != (plan.cluster, plan.seed)]
        RECORD.write_text(json.dumps([*others, figures], indent=2) + "\n")
    return 0 if error <= MAX_LEDGER_ERROR else 1


if __name__ == "__main__":
    sys.exit(main())
