"""The synthetic workload: what its knobs promise is what comes out."""

import math
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from orchestrator.config import ConfigError
from orchestrator.schema import TraceTrial
from orchestrator.simulation.composing import compose_runs
from orchestrator.simulation.generate import SyntheticTrials, generate, read, synthetic_nodes
from orchestrator.simulation.submissions import demands_of
from orchestrator.simulation.traces import misfit, read_workload
from orchestrator.simulation.workload_model import (
    DAY_S,
    WEEK_S,
    SyntheticConfig,
    highest_rhythm,
    mean_duration_s,
    mean_trials,
    rhythm,
)
from orchestrator.snapshot import Room

SMALL = SyntheticConfig(trials=4000, seed=3)


@pytest.fixture(scope="module")
def trials() -> list[TraceTrial]:
    return list(generate(SMALL).trials)


def by_study(trials: list[TraceTrial]) -> list[list[TraceTrial]]:
    studies: dict[str, list[TraceTrial]] = {}
    for trial in trials:
        studies.setdefault(trial.study_id, []).append(trial)
    return list(studies.values())


def test_one_seed_makes_one_workload_however_it_is_read(trials: list[TraceTrial]) -> None:
    again = generate(SMALL).trials
    assert list(islice(again, 50)) == trials[:50]
    assert again[1234] == trials[1234]
    assert again[-2:] == tuple(trials[-2:])
    assert list(generate(replace(SMALL, seed=4)).trials) != trials


def test_the_beginning_does_not_depend_on_the_length(trials: list[TraceTrial]) -> None:
    assert list(generate(replace(SMALL, trials=100)).trials) == trials[:100]


def test_there_are_as_many_trials_as_asked_for_in_order_of_submission(trials: list[TraceTrial]) -> None:
    assert len(trials) == len(SyntheticTrials(SMALL)) == SMALL.trials
    assert len({trial.trial_id for trial in trials}) == SMALL.trials
    times = [trial.submitted_at for trial in trials]
    assert times == sorted(times)


def test_a_million_trials_are_not_made_before_they_are_read() -> None:
    trace = generate(SyntheticConfig(trials=1_000_000))
    assert next(iter(trace.trials)).study_id.endswith("-000000")
    assert len(trace.trials) == 1_000_000


def test_a_study_is_a_sweep_of_one_shape_submitted_at_once(trials: list[TraceTrial]) -> None:
    for study in by_study(trials)[:-1]:
        assert SMALL.least_trials <= len(study) <= SMALL.most_trials
        assert len({(t.submitted_at, t.tenant, t.priority, t.stages[-1].demand) for t in study}) == 1
        assert len({t.stages[-1].duration_s for t in study}) == len(study)


def test_trials_of_a_warm_started_study_share_the_run_before_their_own(trials: list[TraceTrial]) -> None:
    warm = [study for study in by_study(trials) if study[0].study_id.startswith("sft_grpo")]
    assert warm
    for study in warm:
        assert {tuple(stage.name for stage in trial.stages) for trial in study} == {("sft", "grpo")}
        assert len({trial.stages[0].key for trial in study}) == 1
        assert {trial.stages[1].key for trial in study} == {""}


def test_phases_fill_a_stage_and_only_rl_rolls_out(trials: list[TraceTrial]) -> None:
    for stage in (stage for trial in trials for stage in trial.stages):
        assert sum(stage.phases.values()) == pytest.approx(stage.duration_s)
        assert ("rollout" in stage.phases) is (stage.name == "grpo")


def test_every_demand_fits_on_the_nodes(trials: list[TraceTrial]) -> None:
    room = Room(generate(SMALL).nodes)
    assert [why for demand in demands_of(trials) if (why := misfit(room, demand))] == []


def test_fractional_single_and_gang_demands_come_as_often_as_asked() -> None:
    studies = by_study(list(generate(replace(SMALL, trials=40_000, most_trials=20)).trials))
    counts = Counter(
        "part" if d.share < 1 else "gang" if d.devices > 1 else "one"
        for d in (study[0].stages[-1].demand for study in studies)
    )
    total = counts.total()
    assert counts["part"] / total == pytest.approx(SMALL.fractional, abs=4 * math.sqrt(0.25 / total))
    assert counts["gang"] / total == pytest.approx(SMALL.gangs_part, abs=4 * math.sqrt(0.25 / total))


def test_there_are_few_different_demands() -> None:
    demands = {s.demand for t in generate(replace(SMALL, trials=50_000)).trials for s in t.stages}
    assert len(demands) < 200


@pytest.mark.parametrize("load", [0.5, 2.0])
def test_what_is_asked_for_per_device_and_second_is_the_load(load: float) -> None:
    # Tails that are cut early, and every hour like the other, keep the spread of the sum small.
    config = replace(
        SMALL, trials=60_000, load=load, longest_s=5000.0, most_trials=20, diurnal=0.0, weekend=1.0
    )  # fmt: skip
    asked, seen, last = 0.0, set(), 0.0
    for trial in generate(config).trials:
        for stage in trial.stages:
            if not stage.key or stage.key not in seen:
                asked += stage.duration_s * stage.demand.devices * stage.demand.share
                seen.add(stage.key)
        last = trial.submitted_at
    devices = config.nodes * config.devices_per_node
    assert asked / (last * devices) == pytest.approx(load, rel=0.08)


@pytest.mark.parametrize(
    "config",
    [
        SyntheticConfig(),
        SyntheticConfig(tail=0.0),
        SyntheticConfig(tail=1.0, tail_exponent=1.0),
        SyntheticConfig(sigma=0.0, tail=0.0),
        SyntheticConfig(longest_s=2000.0),
    ],
)
def test_the_mean_duration_is_that_of_many_draws(config: SyntheticConfig) -> None:
    rng = np.random.default_rng(0)
    body = config.median_s * np.exp(config.sigma * rng.standard_normal(400_000))
    start = min(config.longest_s, config.median_s * math.exp(1.6448536 * config.sigma))
    tail = start * (1.0 - rng.random(400_000)) ** (-1.0 / config.tail_exponent)
    drawn = np.minimum(np.where(rng.random(400_000) < config.tail, tail, body), config.longest_s)
    assert mean_duration_s(config) == pytest.approx(drawn.mean(), rel=0.02)


def test_the_mean_number_of_trials_is_that_of_the_studies() -> None:
    studies = by_study(list(generate(replace(SMALL, trials=40_000)).trials))[:-1]
    sizes = np.array([len(study) for study in studies])
    assert mean_trials(SMALL) == pytest.approx(sizes.mean(), abs=4 * sizes.std() / math.sqrt(len(sizes)))


def test_the_rhythm_of_a_weekday_is_one_on_average_and_highest_at_its_peak() -> None:
    hours = [rhythm(SMALL, hour * 3600.0) for hour in range(5 * 24)]
    assert np.mean(hours) == pytest.approx(1.0)
    assert max(hours) == pytest.approx(highest_rhythm(SMALL)) == rhythm(SMALL, SMALL.peak_hour * 3600.0)
    assert rhythm(SMALL, 5 * DAY_S) == pytest.approx(SMALL.weekend * rhythm(SMALL, 0.0))
    assert rhythm(SMALL, WEEK_S + 7200.0) == pytest.approx(rhythm(SMALL, 7200.0))


def test_more_studies_arrive_by_day_than_by_night() -> None:
    studies = by_study(list(generate(replace(SMALL, trials=30_000, most_trials=6, diurnal=0.9)).trials))
    hours = Counter(int(study[0].submitted_at % DAY_S // 3600) for study in studies)
    day, night = (sum(hours[h % 24] for h in range(start, start + 6)) for start in (12, 0))
    assert day > 3 * night


def test_the_models_take_turns_on_the_nodes_by_weight() -> None:
    nodes = synthetic_nodes(replace(SMALL, nodes=10, models=["A:3", "B:2"]))
    assert Counter(node.devices[0].model for node in nodes) == {"A": 6, "B": 4}
    assert len({node.node_id for node in nodes}) == 10


def test_a_pinned_study_names_a_model_that_is_there() -> None:
    config = replace(SMALL, nodes=1, pinned=1.0, models=["A", "B:0.1"])
    assert {t.stages[-1].demand.models for t in islice(generate(config).trials, 500)} == {("A",)}


def test_the_reader_takes_the_knobs_by_name() -> None:
    trace = read(trials=7, nodes=2, skip_bad_rows=True)
    assert (len(list(trace.trials)), len(trace.nodes)) == (7, 2)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"trials": 0}, "trace.trials=0: use a whole number of at least 1"),
        ({"load": 0.0}, "trace.load=0.0: use a positive number"),
        ({"diurnal": 1.5}, "trace.diurnal=1.5: use a part from 0 to 1"),
        ({"sigma": -1.0}, "trace.sigma=-1.0: use 0 or more"),
        ({"recipes": ["ppo:1"]}, "there is: sft, grpo, sft_grpo"),
        ({"shares": ["1.5"]}, "use shares above 0 and below 1"),
        ({"gangs": []}, "list values with weights of 0 or more"),
        ({"gangs": ["2:many"]}, "list values with weights of 0 or more"),
        ({"gangs": ["100"]}, "use 1 to 64 devices"),
        ({"fractional": 0.9}, "trace.gangs_part=0.2: use at most 0.1"),
        ({"most_trials": 2}, "trace.most_trials=2: use at least trace.least_trials=4"),
    ],
)
def test_a_knob_out_of_range_is_refused_by_name(knobs: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(**knobs)
    assert says in str(refused.value)


def test_the_config_file_has_the_defaults_of_the_knobs() -> None:
    (run,) = compose_runs(["trace=synthetic"])
    own = {name: value for name, value in run.config["trace"].items() if name in SyntheticConfig.__dataclass_fields__}
    assert SyntheticConfig(**own) == SyntheticConfig()


def test_lists_of_weights_are_given_as_overrides() -> None:
    (run,) = compose_runs(["trace=synthetic", "trace.models=[L40S:2,T4:1]", "trace.gangs=[2,16:0.5]", "trace.nodes=3"])
    workload = read_workload(run.config, skip_bad_rows=False)
    assert [node.devices[0].model for node in workload.nodes] == ["L40S", "L40S", "T4"]
    assert {s.demand.devices for t in workload.trace.trials for s in t.stages} <= {1, 2, 16}
