"""The search for a packing policy: it finds what is best, remembers it, and writes the file to deploy."""

import shutil
from dataclasses import fields
from io import StringIO
from pathlib import Path

import pytest
import yaml
from rich.console import Console

import conf
from orchestrator.config import ConfigError, register_schemas
from orchestrator.packing import PACKINGS
from orchestrator.simulation.composing import compose_runs
from orchestrator.simulation.config import SCHEMAS
from orchestrator.simulation.knobs import RANGES, OneOf, Real
from orchestrator.simulation.tune import Search, Tried
from orchestrator.simulation.tuned import config_file, deploy, print_best
from orchestrator.sweep.composing import Composer, hydra_session

# Small enough for a moment, full enough for the policies to differ.
WORKLOAD = [
    *("trace=synthetic", "trace.trials=60", "trace.nodes=1", "trace.seed=2", "trace.load=2", "trace.pinned=0"),
    *("trace.fractional=0.7", "trace.gangs_part=0.2", "trace.most_trials=12", "trace.sigma=0.5"),
]


def searched(
    *overrides: str, objective: str = "jct_mean", count: int = 5, storage: Path | None = None
) -> tuple[Search, list[Tried]]:
    search = Search([*WORKLOAD, *overrides], objective, storage=storage)
    heard: list[Tried] = []
    search.run(count, lambda _, tried: heard.append(tried))
    return search, heard


def jct_mean_s(*overrides: str) -> float | None:
    from orchestrator.simulation.runner import simulate

    (run,) = compose_runs([*WORKLOAD, *overrides])
    return simulate(run.config).jct_mean_s


@pytest.fixture(scope="module")
def search() -> Search:
    return searched("packing=exclusive,best_fit,fragmentation", count=7)[0]


def test_what_is_best_is_what_the_simulator_says_of_it(search: Search) -> None:
    best, worst = search.tried()[0], search.tried()[-1]
    assert best.value == jct_mean_s(*best.overrides())
    assert (worst.policy, worst.value) == ("exclusive", jct_mean_s("packing=exclusive"))
    assert best.value < worst.value


def test_every_policy_is_tried_with_its_defaults_first() -> None:
    _, heard = searched("packing=exclusive,best_fit,fragmentation", count=3)
    assert [(tried.policy, tried.knobs) for tried in heard] == [
        ("exclusive", {}),
        ("best_fit", {"cpu_weight": 0.5}),
        ("fragmentation", {"popularity": 0.95}),
    ]


def test_more_is_better_where_the_objective_says_so() -> None:
    search, _ = searched("packing=exclusive,first_fit", objective="experiments_per_gpu_hour", count=2)
    values = [tried.value for tried in search.tried()]
    assert [tried.policy for tried in search.tried()] == ["first_fit", "exclusive"]
    assert values == sorted(values, reverse=True)


def test_a_setting_is_simulated_once_and_a_search_without_new_ones_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.simulation import tune

    runs: list[int] = []
    real = tune.run_all
    monkeypatch.setattr(tune, "run_all", lambda given, **how: runs.append(len(given)) or real(given, **how))
    search, heard = searched("packing=exclusive,first_fit", count=6)
    assert (len(heard), len(search.tried()), runs) == (2, 2, [1, 1])


def test_the_results_of_several_seeds_are_averaged() -> None:
    _, (tried,) = searched("packing=first_fit", "seed=0,1", count=1)
    first, second = (jct_mean_s("packing=first_fit", f"seed={seed}") for seed in (0, 1))
    assert first != second
    assert tried.value == pytest.approx((first + second) / 2)


def test_a_search_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    storage = tmp_path / "tuning.db"
    search = Search([*WORKLOAD, "packing=best_fit"], "jct_mean", storage=storage)

    def interrupt(count: int, tried: Tried) -> None:
        if count == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search.run(4, interrupt)
    _, heard = searched("packing=best_fit", count=4, storage=storage)
    assert len(heard) == 2
    assert searched("packing=best_fit", count=4, storage=storage)[1] == []


def test_another_workload_is_another_search(tmp_path: Path) -> None:
    storage = tmp_path / "tuning.db"
    searched("packing=first_fit", count=1, storage=storage)
    assert len(searched("packing=first_fit", "trace.load=0.5", count=1, storage=storage)[1]) == 1


def test_a_knob_that_is_held_is_not_searched() -> None:
    search, heard = searched("packing=best_fit,exclusive", "packing.cpu_weight=0.25", count=4)
    assert {tried.policy for tried in heard} <= {"best_fit", "exclusive"}
    assert all(tried.knobs == {} for tried in heard)
    best = next(tried for tried in search.tried() if tried.policy == "best_fit")
    assert search.config_of(best) == {"name": "best_fit", "cpu_weight": 0.25}


def test_the_file_to_deploy_composes_to_the_setting_that_was_best(search: Search, tmp_path: Path) -> None:
    best = search.tried()[0]
    said = deploy(search, "orchestrator tune packing", tmp_path)
    path = tmp_path / f"{best.policy}.yaml"
    written = yaml.safe_load(path.read_text())
    shipped = yaml.safe_load((Path(conf.__path__[0]) / "packing" / f"{best.policy}.yaml").read_text())
    assert written.pop("defaults") == shipped["defaults"]
    (run,) = compose_runs([*WORKLOAD, *best.overrides()])
    assert written == run.config["packing"]
    assert str(path) in said


SLOWED = "interference=post_training"
ONE_TO_TWO = Real(low=1.0, high=2.0)


@pytest.fixture(scope="module")
def promising() -> Search:
    search = Search([*WORKLOAD, SLOWED, "packing=best_fit"], "jct_mean", oversubscription=ONE_TO_TWO)
    search.run(4, lambda _, tried: None)
    return search


def test_the_oversubscription_is_searched_beside_the_knobs_from_none_on(promising: Search) -> None:
    factors = [tried.oversubscription for tried in promising.tried()]
    assert 1.0 in factors
    assert len({*factors}) == 4
    assert all(factor is not None and 1.0 <= factor <= 2.0 for factor in factors)
    assert {*promising.tried()[0].knobs} == {"cpu_weight"}


def test_what_is_best_of_an_oversubscription_is_what_the_simulator_says_of_it(promising: Search) -> None:
    best, worst = promising.tried()[0], promising.tried()[-1]
    assert best.value < worst.value
    assert best.value == jct_mean_s(SLOWED, *best.overrides())
    assert worst.value == jct_mean_s(SLOWED, *worst.overrides())


@pytest.mark.parametrize("root", ["config", "simulate"])
def test_the_file_to_deploy_sets_the_oversubscription_of_whatever_cluster(
    promising: Search, root: str, tmp_path: Path
) -> None:
    best = promising.tried()[0]
    folder = tmp_path / "conf"
    shutil.copytree(Path(conf.__path__[0]), folder)
    deploy(promising, "orchestrator tune packing", folder / "packing" / "mine.yaml")
    register_schemas(SCHEMAS, "orchestrator.simulation.config")
    with hydra_session(folder):
        composed = Composer(root).compose(["packing=mine", *(["trace=synthetic"] if root == "simulate" else [])])
    assert composed.packing == promising.config_of(best)
    assert composed.cluster.oversubscription == best.oversubscription


@pytest.mark.parametrize(
    ("overrides", "searched", "says"),
    [
        (
            ["interference=post_training", "cluster.oversubscription=1.5"],
            ONE_TO_TWO,
            "leave it out to have it searched",
        ),
        (
            ["interference=none"],
            ONE_TO_TWO,
            "--oversubscription=1:2: where nobody slows anybody down most is always best",
        ),
        (["interference=post_training"], Real(low=0.5, high=2.0), "--oversubscription=0.5:2: give LOW:HIGH; use 1"),
        (["interference=post_training"], Real(low=2.0, high=1.0), "--oversubscription=2:1: give LOW:HIGH; use 1"),
    ],
)
def test_an_oversubscription_that_cannot_be_searched_is_refused(
    overrides: list[str], searched: Real, says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        Search([*WORKLOAD, *overrides], "jct_mean", oversubscription=searched)
    assert says in str(refused.value)


def test_the_header_of_the_file_says_how_it_was_found_and_how_it_is_used(search: Search) -> None:
    best = search.tried()[0]
    header = config_file(search, best, "orchestrator tune packing --trials 7").split("defaults:")[0]
    assert "#   orchestrator tune packing --trials 7" in header
    assert f"#   orchestrator serve {' '.join(best.overrides())}" in header


def test_a_file_that_ends_in_yaml_is_the_file(search: Search, tmp_path: Path) -> None:
    deploy(search, "orchestrator tune packing", tmp_path / "new" / "mine.yaml")
    assert (tmp_path / "new" / "mine.yaml").read_text().startswith("# jct_mean_s ")


def test_the_table_has_the_best_first(search: Search) -> None:
    out = StringIO()
    print_best(search, Console(file=out, width=200))
    rows = [line for line in out.getvalue().splitlines() if line.startswith("│")]
    assert [row.split()[1] for row in rows] == [tried.policy for tried in search.tried()]
    assert "mean JCT (s)" in out.getvalue()


def test_an_objective_that_the_protocol_does_not_measure_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unallocated_share_at_100: .* give trace.protocol=arrivals_only"):
        searched("packing=first_fit", objective="unallocated", count=1)


def test_the_unallocated_share_is_searched_under_arrivals_only() -> None:
    overrides = ["packing=first_fit,random", "trace.protocol=arrivals_only"]
    search, _ = searched(*overrides, objective="unallocated", count=2)
    shares = [tried.measures["unallocated_share_at_100"] for tried in search.tried()]
    assert shares == sorted(shares)
    assert 0.0 <= shares[0] < 100.0


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("packing=nope", "packing=nope"),
        ("packing.taste=1", "packing.taste=1: none of the policies has such a knob"),
        ("packing.popularity=0.5,0.9", "packing.popularity=0.5,0.9: give one value to hold it"),
        ("trace.lode=1", "trace.lode"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_anything_is_simulated(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Search([*WORKLOAD, override], "jct_mean")
    assert says in str(refused.value)


@pytest.mark.parametrize("policy", sorted(RANGES.keys() & PACKINGS.keys()))
def test_the_knobs_that_are_searched_are_the_policys_own_and_hold_their_defaults(policy: str) -> None:
    (run,) = compose_runs([*WORKLOAD, f"packing={policy}"])
    own = {field.name for field in fields(PACKINGS[policy])}  # type: ignore[arg-type]
    for name, range_ in RANGES[policy].items():
        assert name in own
        default = run.config["packing"][name]
        if isinstance(range_, OneOf):
            assert default in range_.values
        else:
            assert range_.low <= default <= range_.high
