"""`study.share_stages=false`: every trial runs all of its own stages."""

from orchestrator.sweep import compose_study


def stage_keys(*overrides: str) -> list[tuple[str, ...]]:
    composed = compose_study(["study=rl_vs_sft", *overrides])
    return [tuple(stage.key for stage in variant.stages) for variant in composed.variants]


def test_no_two_trials_have_a_stage_in_common() -> None:
    keys = [key for stages in stage_keys("study.share_stages=false") for key in stages]
    assert len(set(keys)) == len(keys) == 32


def test_otherwise_they_share_the_warm_up() -> None:
    assert len({stages[0] for stages in stage_keys()}) == 1


def test_the_same_sweep_has_the_same_keys_again() -> None:
    assert stage_keys("study.share_stages=false") == stage_keys("study.share_stages=false")


def test_each_stage_names_its_own_parent() -> None:
    for variant in compose_study(["study=rl_vs_sft", "study.share_stages=false"]).variants:
        assert variant.stages[1].parent_key == variant.stages[0].key
        assert variant.key == variant.stages[1].key
