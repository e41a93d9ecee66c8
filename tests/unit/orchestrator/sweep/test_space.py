"""Every form of the sweep grammar as a dimension, and every value as an override that reads back as itself."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import ConfigError
from orchestrator.sweep import Choices, Condition, Dimension, Numbers, PointComposer, Space, compose_study
from orchestrator.sweep.overrides import parse_overrides
from orchestrator.sweep.space import space_of


def space(*sweep: str, seeds: int = 1) -> Space:
    return space_of(parse_overrides(sweep), seeds, 3)


@pytest.mark.parametrize(
    ("text", "dimension"),
    [
        ("a=interval(1,2)", Numbers("a", 1.0, 2.0)),
        ("a=tag(log,interval(1e-5,1e-2))", Numbers("a", 1e-5, 1e-2, log=True)),
        ("a=int(interval(1,8))", Numbers("a", 1, 8, step=1)),
        ("a=tag(log,int(interval(1,8)))", Numbers("a", 1, 8, step=1, log=True)),
        ("a=range(0,10,3)", Numbers("a", 0, 9, step=3)),
        ("a=range(5,0,-2)", Numbers("a", 1, 5, step=2)),
        ("a=range(0.1,0.5,0.1)", Numbers("a", 0.1, 0.4, step=0.1)),
        ("a=tag(log,range(1,9))", Numbers("a", 1, 8, step=1, log=True)),
        ("a=x,y", Choices("a", ("x", "y"))),
        ("a=choice(1,'y z')", Choices("a", ("1", r"y\ z"))),
        ("+a.b=1,2", Choices("+a.b", ("1", "2"))),
        ("a=1e-3,0.001", Choices("a", ("0.001",))),
        ("a=3", Choices("a", ("3",))),
    ],
)
def test_a_sweep_is_a_dimension(text: str, dimension: Dimension) -> None:
    assert space(text).dimensions == (dimension,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=glob(*)", "a=glob(*): write out what it may be"),
        ("a=interval(2,1)", "a=interval(2,1): an interval goes from a number"),
        ("a=tag(log,interval(0,1))", "a=tag(log,interval(0,1)): an interval goes from a positive number"),
        ("a=interval(0,inf)", "a=interval(0,inf): an interval goes"),
        ("a=tag(log,choice(1,2))", "a=tag(log,choice(1,2)): choices have no order"),
        ("a=tag(log,range(1,9,2))", "a=tag(log,range(1,9,2)): log is for ranges of positive whole numbers"),
        ("a=tag(normal,interval(0,1))", "a=tag(normal,interval(0,1)): unknown tag normal; there is: log"),
        ("a=range(3,3)", "a=range(3,3): an empty range"),
        ("a=range(0,3,0)", "a=range(0,3,0): use a finite range"),
        ("a=shuffle(range(0,3))", "a=shuffle(range(0,3)): a sampler draws in an order of its own"),
    ],
)
def test_what_no_sampler_can_draw_from_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space(text)
    assert str(caught.value).startswith(message)


@given(st.floats(1e-300, 1e300))
def test_a_float_reads_back_as_exactly_itself(drawn: float) -> None:
    numbers = Numbers("a", 1e-300, 1e300)
    (override,) = parse_overrides([f"a={numbers.text(drawn)}"])
    assert override.value() == drawn
    assert numbers.value(numbers.text(drawn)) == drawn


@given(st.integers(0, 40), st.sampled_from([0.1, 0.3, 0.05]))
def test_a_range_is_written_as_hydra_lists_it(index: int, step: float) -> None:
    (override,) = parse_overrides([f"a=range(0.1,{0.1 + 41 * step},{step})"])
    (numbers,) = space_of([override], 1, 0).dimensions
    listed = list(override.sweep_string_iterator())
    assert float(numbers.at(index)) == pytest.approx(float(listed[index]), abs=1e-12)
    assert numbers.text(float(numbers.at(index)) + 1e-10) == numbers.at(index)


def test_points_are_counted_without_a_gap() -> None:
    small = space("a=x,y", "b=range(0,3)")
    assert small.size == 6
    assert len({small.at(index) for index in range(6)}) == 6
    assert space("a=x,y", "b=interval(0,1)").size is None


def test_seeds_are_no_dimension() -> None:
    assert space("a=1,2", "seed=range(0,2)").seeds == ("seed=0", "seed=1")
    assert space("a=1,2", seeds=2).seeds == ("seed=3", "seed=4")
    assert space("a=1,2", "seed=range(0,2)").dimensions == (Choices("a", ("1", "2")),)


def test_every_end_and_every_choice_is_tried_once_and_not_every_combination() -> None:
    assert space("a=x,y,z", "b=interval(0,1)").probes() == [
        ("a=x", "b=0.0"),
        ("a=y", "b=0.0"),
        ("a=z", "b=0.0"),
        ("a=x", "b=1.0"),
    ]


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose_study(overrides)
    return str(caught.value)


LR = "optimizer.lr=tag(log,interval(1e-5,1e-2))"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("search=tpe",), "search=no dimension: nothing to search; sweep something"),
        (("search=tpe", LR, "seed=interval(0,4)"), "seed=interval(0,4): no seed is better than another"),
        (("search=tpe", LR, "seed=0,1", "search.trials=5"), "search.trials=5: every point is run with 2 seeds"),
        (("search=tpe", LR, "seed=0,1", "search.seeds=3"), "search.seeds=3: seed=0,1 lists 2"),
        (("search=tpe", LR, "search.trials=0"), "search.trials=0: use a whole number"),
        (("search=tpe", LR, "search.trials=200000"), "search.trials=200000: a study has 1 to 100000"),
        (("search=tpe", LR, "search.metric=accuracy"), "search.metric=accuracy: test problems choose nothing"),
        (("search=tpe", LR, "search.direction=up"), "search.direction=up: use maximize or minimize"),
        (("search=cmaes", LR), "search=cmaes: it needs two dimensions of numbers"),
        (("search=tpe,gp", LR), "search=tpe,gp: one study has one"),
        (("search=nope", LR), "search=nope: there is: cmaes, gp, grid, random, tpe"),
        (("search.trials=4",), "search.trials=4: unknown key; a grid has no budget"),
        (("search=tpe", "optimizer.lr=interval(-1,1)"), "optimizer.lr=-1.0: use a positive learning rate"),
        (("search=tpe", "algorithm=sft,nope", LR), "algorithm=nope: there is:"),
        (
            ("search=tpe", "algorithm=sft,grpo", "algorithm.clip_hi=interval(0.1,0.4)"),
            "algorithm.clip_hi=interval(0.1,0.4): unknown key under algorithm=sft and grpo; did you mean clip_high?",
        ),
        (("search=tpe", "algorithm.batch_size=interval(1,8)"), "algorithm.batch_size=1.0: Value '1.0' of type 'float'"),
        ((LR,), f"sweep={LR}: list the values"),
    ],
)
def test_a_search_that_can_not_run_is_refused_when_it_is_submitted(overrides: tuple[str, ...], message: str) -> None:
    assert refused(*overrides).startswith(message)


def test_an_interval_under_a_grid_is_told_which_choice_would_do() -> None:
    assert refused(LR).endswith("search=tpe")


def test_a_point_becomes_the_variant_that_the_same_overrides_make() -> None:
    given = ("search=tpe", "study=rl_vs_sft", LR, "seed=0,1", "model.layers=1")
    composed = compose_study(given)
    composer = PointComposer(given, composed.sweep, composed.config)
    point = ("algorithm=grpo", "optimizer.lr=0.0012345678901234567")
    first, second = composer.variants(point)
    alone = compose_study([*point, "seed=1", "model.layers=1"]).variants[0]
    assert (first.seed, second.seed) == (0, 1)
    assert second.overrides == (*point, "seed=1")
    assert second.key == alone.key
    assert first.stages[0] is composer.variants(point)[0].stages[0]


CLIP = "algorithm.clip_high=interval(0.1,0.4)"


def test_a_key_of_one_algorithm_only_is_a_dimension_where_that_is_chosen() -> None:
    given = ("search=tpe", CLIP, "algorithm=sft,grpo", LR)
    composed = compose_study(given)
    assert composed.space is not None
    assert composed.space.conditions == (Condition("algorithm.clip_high", "algorithm", ("grpo",)),)
    assert composed.space.size is None
    for probe in composed.probes:
        assert any(text.startswith("algorithm.clip_high=") for text in probe.overrides) == (probe.algorithm == "grpo")
    composer = PointComposer(given, composed.sweep, composed.config)
    assert composer.space == composed.space
    (variant,) = composer.variants(("algorithm.clip_high=0.3", "algorithm=grpo", "optimizer.lr=0.001"))
    assert variant.config["algorithm"]["clip_high"] == 0.3
    (variant,) = composer.variants(("algorithm=sft", "optimizer.lr=0.001"))
    assert "clip_high" not in variant.config["algorithm"]


def test_a_key_that_every_option_has_is_no_conditional_one() -> None:
    composed = compose_study(["search=tpe", "algorithm=grpo,grpo_small", CLIP])
    assert composed.space is not None
    assert composed.space.conditions == ()


def test_a_point_of_another_space_has_no_values() -> None:
    composed = compose_study(["search=tpe", "algorithm=sft,grpo", CLIP])
    assert composed.space is not None
    with pytest.raises(ValueError, match="no point of this space"):
        composed.space.values(("algorithm=sft", "algorithm.clip_high=0.2"))


def test_the_sweep_of_a_search_is_the_studys_with_the_command_lines_last_word() -> None:
    composed = compose_study(["search=tpe", "study=rl_vs_sft", "algorithm=sft", LR])
    assert composed.space is not None
    assert [dimension.key for dimension in composed.space.dimensions] == ["algorithm", "optimizer.lr"]
    assert composed.space.seeds == ("seed=0", "seed=1", "seed=2", "seed=3")
    assert composed.variants == ()


def test_a_data_file_is_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "it's.jsonl").write_text('{"prompt": "1+1=", "answer": "2"}\n')
    monkeypatch.chdir(tmp_path)
    given = ("search=tpe", "task=jsonl", 'task.path="it\'s.jsonl"', LR)
    composed = compose_study(given)
    monkeypatch.chdir("/")
    (variant,) = PointComposer(given, composed.sweep, composed.config).variants(("optimizer.lr=0.001",))
    assert variant.config["task"]["path"] == str(tmp_path / "it's.jsonl")
