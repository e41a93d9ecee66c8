"""Making room beside a service: what trials need stays, whatever happens meanwhile."""

import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.output_cache import FolderCache
from cluster.outputs import Artifacts
from orchestrator.caching import Bounds, collect
from orchestrator.caching.collecting import RECENTLY_S, in_use
from orchestrator.caching.listing import describe
from orchestrator.ports import StoreUnavailable
from orchestrator.schema import CommandKind, Outcome
from orchestrator.schema.caching import CacheKind
from tests.unit.orchestrator.rig import Rig

NOTHING = Bounds(max_bytes=0, min_age_s=60.0)


class Site:
    """A simulated service, and the files that its stages would have left."""

    def __init__(self, root: Path) -> None:
        self.artifacts, self.cache, self.rig = Artifacts(root), FolderCache(root), Rig(devices=1)

    def submit_and_run(self, until_s: float, count: int = 2, study_id: str = "study-1") -> None:
        self.rig.submit(count, study_id)
        self.rig.cycle_until(until_s)

    def leave(self, age_s: float = 1e4) -> None:
        """Everything that what has run until now leaves: an output and a checkpoint per stage."""
        for line in self.rig.store.allocations():
            self.artifacts.prepare(line.bundle_id, line.study_id, line.stage_key)
            (self.artifacts.checkpoint(line.study_id, line.stage_key) / "step-1").mkdir()
            (self.artifacts.checkpoint(line.study_id, line.stage_key) / "step-1" / "state").write_text("s" * 1000)
            if line.closed_at is not None:
                (self.artifacts.incoming(line.bundle_id) / "weights").write_text("w" * 1000)
                self.artifacts.commit(line.bundle_id, line.stage_key, Outcome())
        for kind in ("stages/*", "checkpoints/*/*", "incoming/*"):
            for path in self.artifacts.root.glob(kind):
                os.utime(path, (time.time() - age_s,) * 2)

    def collect(self, **options: Any) -> set[tuple[CacheKind, str]]:
        found = collect(self.cache, self.rig.store, NOTHING, time.time(), **options)
        return {(entry.kind, entry.name) for entry in found.removed}

    def keys(self, number: int) -> list[str]:
        return [stage.key for stage in self.rig.store.trials("study-1")[number].variant.stages]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_while_a_study_is_open_only_what_is_done_with_goes(site: Site) -> None:
    site.submit_and_run(25.0)  # the warm-up and the first trial are done, the second runs
    site.leave()
    warmup, first = site.keys(0)
    assert site.collect() == {(CacheKind.OUTPUT, first)}
    assert site.artifacts.verified(warmup) is not None
    assert site.artifacts.incoming(site.rig.store.allocations()[-1].bundle_id).exists()


def test_what_a_paused_trial_needs_stays(site: Site) -> None:
    site.submit_and_run(12.0)
    site.rig.ask(CommandKind.PAUSE, "study-1")
    site.rig.cycle_until(20.0)
    site.leave()
    assert site.collect() == set()


def test_of_a_study_that_is_over_everything_may_go_once_nobody_has_it_in_mind(site: Site) -> None:
    site.rig.submit(2)
    site.rig.run()
    site.leave()
    warmup, first = site.keys(0)
    _, second = site.keys(1)
    left = {(e.kind, e.name) for e in site.cache.entries()}
    assert site.collect(dry_run=True) == left
    assert {(e.kind, e.name) for e in site.cache.entries()} == left  # simulated time is long ago
    ended_at = site.rig.store.study("study-1").ended_at
    assert ended_at is not None
    assert in_use(site.rig.store, ended_at + RECENTLY_S - 1).stage_keys == {warmup}
    assert site.collect() == left
    assert {kind for kind, _ in left} == {CacheKind.OUTPUT, CacheKind.CHECKPOINT}
    assert site.artifacts.available([warmup, first, second]) == set()


def test_what_somebody_came_to_need_while_it_was_hidden_is_put_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.rig.submit(2, own=False)
    site.rig.run()
    site.leave()
    warmup, _ = site.keys(0)
    hide = site.cache.hide

    def submitted_meanwhile(entry: Any) -> str | None:
        place = hide(entry)
        if "study-2" not in [study.study_id for study in site.rig.store.studies()]:
            site.rig.submit(2, "study-2", own=False)
        return place

    monkeypatch.setattr(site.cache, "hide", submitted_meanwhile)
    assert (CacheKind.OUTPUT, warmup) not in site.collect()
    assert site.artifacts.verified(warmup) is not None


def test_a_store_that_goes_away_costs_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.rig.submit(1)
    site.rig.run()
    site.leave()
    before = site.cache.entries()
    asked = []

    def away(*_: Any, **__: Any) -> Any:
        asked.append(1)
        if len(asked) > 1:
            raise StoreUnavailable("locked")
        return []

    monkeypatch.setattr(site.rig.store, "studies", away)
    with pytest.raises(StoreUnavailable):
        site.collect()
    assert site.cache.entries() == before


def test_the_list_says_who_made_it_and_whether_it_is_whole(site: Site) -> None:
    site.submit_and_run(25.0)
    site.leave()
    warmup, first = site.keys(0)
    (site.artifacts.stage(first) / "weights").write_text("other")
    shutil.rmtree(site.artifacts.root / "incoming")
    rows = {(row["kind"], row["name"]): row for row in describe(site.cache, site.rig.store, time.time(), verify=True)}
    assert {name: _of(rows["output", name]) for name in (warmup, first)} == {
        warmup: ("warmup", "study-1", True, True),
        first: ("main", "study-1", False, False),
    }
    assert _of(rows["checkpoint", f"study-1/{first}"]) == ("main", "study-1", True, None)
    assert rows["output", warmup]["bytes"] > 1000


def _of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["stage"], row["study"], row["needed"], row["verified"]
