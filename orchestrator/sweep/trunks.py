"""What variants that differ in length have in common is trained once.

A run of 100 steps at a constant learning rate is how a run of 200 begins, and a run that warms up, stays stable and
decays is one of a constant rate until its decay begins. All of these are on one *trunk*. `share_trunks` cuts it where
they part: each cut is a stage of its own (the one of constant rate that ends there, with the key that it would have
anywhere), a longer one continues from there, and the variants' own stages keep their keys:

    steps   0 ─────────── 100 ─────────── 160 ─────── 200       max_steps=100 is a cut, and a variant's last stage
            └─ stage 100 ─┴─ stage 160 ───┴─ decay ───┘         wsd, max_steps=200, decay_steps=40
                                          └─ stage 300 ── ...   max_steps=300

Where nobody shares nothing is cut. A trunk that an earlier study left an end of is gone on with from there.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from orchestrator.keys import StageKeys, on_trunk
from orchestrator.schema import Stage, Variant

EndsAtHand = Callable[[str], Collection[int]]
"""Where the trunk of a key can be continued because an earlier run ended there [steps]."""


def share_trunks(variants: Sequence[Variant], ends_at_hand: EndsAtHand = lambda trunk: ()) -> tuple[Variant, ...]:
    """The variants, with stages that others have in common with them put before their own. Raises OSError if a data
    file is gone."""
    stages = {stage.key: stage for variant in variants for stage in variant.stages}
    asked_for = {variant.stages[-1].key for variant in variants}
    by_trunk: dict[tuple[str, str], list[Stage]] = {}
    for stage in stages.values():
        if stage.trunk:
            by_trunk.setdefault((stage.name, stage.trunk), []).append(stage)
    keys = StageKeys()
    paths: dict[str, tuple[Stage, ...]] = {}
    for (_, trunk), on_it in by_trunk.items():
        # What a variant is about is run in any case: whoever goes through it waits for that.
        runs = {stage.budget_steps for stage in on_it if stage.key in asked_for}
        paths |= _Trunk(on_it, set(ends_at_hand(trunk)) - runs, keys).paths()
    if not any(len(path) > 1 for path in paths.values()):
        return tuple(variants)
    return tuple(_along(variant, paths) for variant in variants)


class _Trunk:
    """The stages of a study that are on one trunk, and where it is cut."""

    def __init__(self, stages: Sequence[Stage], at_hand: Collection[int], keys: StageKeys) -> None:
        """`at_hand`: the steps at which an earlier run left its state."""
        self._own = stages
        self._keys = keys
        self._at_hand = frozenset(at_hand)
        ends = sorted(stage.trunk_steps for stage in stages)
        # The longest goes the last part of its way alone, and so does whoever of it ends there only.
        shared = ends[:-1] if len(ends) > 1 else []
        self._cuts = sorted({*shared, *self._at_hand})
        self._by_end = {stage.trunk_steps: stage for stage in stages if stage.leaves_state}
        self._paths: dict[str, tuple[Stage, ...]] = {}

    def paths(self) -> dict[str, tuple[Stage, ...]]:
        """By the keys of the study's stages: those to go through, the stage itself the last."""
        return {stage.key: self._path(stage) for stage in self._own}

    def _path(self, stage: Stage) -> tuple[Stage, ...]:
        if stage.key not in self._paths:
            self._paths[stage.key] = self._new_path(stage)
        return self._paths[stage.key]

    def _new_path(self, stage: Stage) -> tuple[Stage, ...]:
        cut = self._last_cut(stage)
        if not cut or (stage.leaves_state and stage.budget_steps in self._at_hand):
            return (stage,)
        before = self._path(self._ending_at(cut, stage))
        return (*before, replace(stage, continues=before[-1].key, warm_step=cut))

    def _last_cut(self, stage: Stage) -> int:
        """The last cut that the stage goes through, 0 if there is none. A stage that ends at one is that cut."""
        through = (cut for cut in self._cuts if cut < stage.budget_steps and cut <= stage.trunk_steps)
        return max(through, default=0)

    def _ending_at(self, cut: int, like: Stage) -> Stage:
        if cut not in self._by_end:
            config = on_trunk(like.config, cut)
            key = self._keys.key(config, like.parent_key)
            self._by_end[cut] = replace(like, key=key, config=config, budget_steps=cut, trunk_steps=cut)
        return self._by_end[cut]


def _along(variant: Variant, paths: dict[str, tuple[Stage, ...]]) -> Variant:
    stages: Iterable[Stage] = (part for stage in variant.stages for part in paths.get(stage.key, (stage,)))
    return replace(variant, stages=tuple(stages))
