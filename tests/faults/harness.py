"""A service, a standby and a small study, with SIGKILLs at random moments from a seed."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orchestrator.schema import Study, Trial
from orchestrator.store.database import DatabaseStore
from tests.faults import victims

ROOT = Path(__file__).parents[2]
STAGE = "tests.faults.payload:run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do to whom. `every_s`: the shortest and the longest time between two kills."""

    kills: int
    seed: int = 0
    cluster: str = "node"
    kinds: tuple[str, ...] = ("loop", "forkserver", "bundle", "tracker")
    every_s: tuple[float, float] = (0.3, 2.5)
    trials: int = 6
    steps: int = 60
    timeout_s: float = 600.0


@dataclass(slots=True)
class Service:
    """Two `serve` processes of a home, one of which leads. A killed one is replaced. `tracking`: config of that group
    and, behind a space, further overrides."""

    home: Path
    cluster: str
    tracking: str = "mlflow"
    store_url: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        store = {"ORCHESTRATOR_STORE": self.store_url} if self.store_url else {}
        return {**os.environ, "ORCHESTRATOR_HOME": str(self.home), "PYTHONPATH": str(ROOT), **store}

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "orchestrator.cli", *arguments]

    def keep_up(self, wanted: int = 2) -> None:
        """Have two (or `wanted`) living processes."""
        self.processes = [process for process in self.processes if process.poll() is None]
        while len(self.processes) < wanted:
            log = (self.home / "serve.log").open("ab")
            serve = ("serve", f"cluster={self.cluster}", "cluster.preload=[]", "cluster.stop_grace_s=5")
            serve += ("cluster.max_attempts=100000", *f"tracking={self.tracking}".split())
            process = subprocess.Popen(self.command(*serve), env=self.environment, stdout=log, stderr=log)
            log.close()
            self.processes.append(process)

    def submit(self, plan: Plan) -> str:
        """The id of the study that is to survive."""
        overrides = [
            "recipe=warm_start", "algorithm=sft", "study.name=faults", f"seed=range(0,{plan.trials})",
            f"algorithm.entrypoint={STAGE!r}", f"recipe.stages.warmup.algorithm.entrypoint={STAGE!r}",
            f"algorithm.max_steps={plan.steps}", f"recipe.stages.warmup.algorithm.max_steps={plan.steps}",
            "cluster.memory_per_trial_gib=0.25",
        ]  # fmt: skip
        done = subprocess.run(
            self.command("submit", *overrides), env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[0]

    def stop(self) -> None:
        """End politely what leads, then whatever is left."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(60.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass(slots=True)
class Outcome:
    """What was killed, how long it took, and the study as it ended."""

    study: Study
    trials: list[Trial]
    killed: Counter[str]
    seconds: float


def torment(plan: Plan, home: Path) -> Outcome:
    """Run a study under `plan.kills` kills. Raises TimeoutError if it is not over `plan.timeout_s` after the last."""
    chance = random.Random(plan.seed)
    home.mkdir(parents=True, exist_ok=True)
    service = Service(home=home, cluster=plan.cluster)
    started = time.monotonic()
    killed: Counter[str] = Counter()
    study_id = service.submit(plan)
    store = DatabaseStore(f"sqlite:///{home / 'store.db'}")
    try:
        while sum(killed.values()) < plan.kills:
            service.keep_up()
            time.sleep(chance.uniform(*plan.every_s))
            if _over(store, study_id):
                # A study that is over has nothing left to lose: the next one goes on being killed.
                _extend(service, store, study_id, plan)
            holder = store.lease().holder
            kind = chance.choice(plan.kinds)
            living = victims.find(kind, home, holder.pid) if holder is not None else []
            if living:
                victim = chance.choice(living)
                victim.kill()
                killed[kind] += 1
        deadline = time.monotonic() + plan.timeout_s
        while not _over(store, study_id):
            service.keep_up()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{study_id} is not over {plan.timeout_s:.0f} s after the last kill")
            time.sleep(0.2)
        _wait_for_tracker(store)
        return Outcome(
            study=store.study(study_id),
            trials=store.trials(study_id),
            killed=killed,
            seconds=time.monotonic() - started,
        )
    finally:
        service.stop()
        store.close()
        for process in victims.of_home(home):
            process.kill()
        psutil.wait_procs(list(victims.of_home(home)), timeout=5.0)


def _over(store: DatabaseStore, study_id: str) -> bool:
    return store.study(study_id).ended_at is not None


def _extend(service: Service, store: DatabaseStore, study_id: str, plan: Plan) -> None:
    """Clone a trial under a new seed, so that there is work again."""
    trials = store.trials(study_id)
    clone = ("clone", trials[0].trial_id, f"seed={1000 + len(trials)}")
    subprocess.run(service.command(*clone), env=service.environment, capture_output=True, check=False)


def _wait_for_tracker(store: DatabaseStore) -> None:
    deadline = time.monotonic() + 60.0
    while store.forwarded() < store.journal_end():
        if time.monotonic() > deadline:
            raise TimeoutError("the tracker does not get the rest of the journal")
        time.sleep(0.2)
