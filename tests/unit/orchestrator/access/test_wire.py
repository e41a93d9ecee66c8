"""What a config from over the wire may say, name and read."""

import time
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.access.wire import check_overrides, check_variants
from orchestrator.config import ConfigError
from orchestrator.schema import Variant
from orchestrator.sweep import compose_study
from tests.unit.orchestrator.access.services import access


@cache
def composed() -> Variant:
    return compose_study([]).variants[0]


def with_value(name: str, value: Any) -> Variant:
    """The default variant with one value set in its config."""

    def put(data: dict[str, Any], keys: list[str]) -> dict[str, Any]:
        key, *rest = keys
        return {**data, key: put(data.get(key, {}), rest) if rest else value}

    return replace(composed(), config=put(dict(composed().config), name.split(".")))


@pytest.mark.parametrize(
    "override",
    [
        "seed=range(0,4)",
        "study=rl_vs_sft",
        "study.name=mine",
        "study.tenant=reasoning",
        "algorithm=sft,grpo",
        "algorithm@recipe.stages.warmup.algorithm=sft",
        "optimizer.lr=1e-3,2e-3",
        "task.options.operators=['+','/']",
        "task.prompt='{metadata[expression]}='",
        "+deepspeed.extra.prescale_gradients=true",
        "stopping=never",
        "cluster.devices_per_trial=2",
        "++cluster.share_per_trial=0.5",
    ],
)
def test_what_is_the_studys_own_is_allowed(override: str) -> None:
    check_overrides([override], access())


@pytest.mark.parametrize(
    "override",
    [
        "cluster=local",
        "cluster.implementation=os:system",
        "+cluster.preload=[os]",
        "++cluster.address=elsewhere:6379",
        "cluster/ray=x",
        "ordering=fair_share",
        "packing=exclusive",
        "preemption.min_hold_s=0",
        "tenants=two_teams",
        "tenants.tenants.default.max_priority=1000",
        "access.path_roots=[/]",
        "tracking.uri=http://elsewhere",
        "debug=in_process",
        "hydra.run.dir=/tmp",
        "hydra/launcher=basic",
        "+hydra.searchpath=[file:///tmp]",
        "optimizer@access=adamw",
        "optimizer@_global_=adamw",
        "model@cluster.x=decoder",
        "nonsense=1",
    ],
)
def test_what_is_the_services_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="belongs to the service"):
        check_overrides([override], access())


@pytest.mark.parametrize(
    "override",
    [
        "study.name=${oc.env:HOME}",
        "task.prompt='${oc.env:HOME}'",
        "+deepspeed.extra.a=[{b: '${oc.env:HOME}'}]",
        "seed=1,${seed}",
        r"study.name=\${oc.env:HOME}",
    ],
)
def test_nothing_is_interpolated(override: str) -> None:
    with pytest.raises(ConfigError, match="nothing is interpolated"):
        check_overrides([override], access())


@pytest.mark.parametrize("override", ["--multirun", "-m", "--config-dir=/tmp"])
def test_options_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="options are for the command line"):
        check_overrides([override], access())


@pytest.mark.parametrize("override", ["study.sweep.seed='0,1'", "+study.sweep={cluster.devices: '1,2'}"])
def test_a_sweep_is_given_as_overrides(override: str) -> None:
    with pytest.raises(ConfigError, match="write the sweep as overrides"):
        check_overrides([override], access())


@pytest.mark.parametrize("choice", ["../../etc/x", "/etc/x", "a,../b", "a.yaml", "{lr: 1}", "[a,b]", "glob(*)"])
def test_a_group_is_chosen_by_name(choice: str) -> None:
    with pytest.raises(ConfigError, match="choose it by its name"):
        check_overrides([f"model={choice}"], access())


@pytest.mark.parametrize("override", ["~task", "~task.path", "~deepspeed=zero0"])
def test_nothing_is_taken_out(override: str) -> None:
    with pytest.raises(ConfigError, match="nothing can be taken out"):
        check_overrides([override], access())


@pytest.mark.parametrize("text", ["study.name=a\x00b", "study.name=a\nb", "study.name=\ud800", "study.name=\x7f"])
def test_what_isnt_text_is_refused_in_a_message_that_is(text: str) -> None:
    with pytest.raises(ConfigError, match="leave out control characters") as refused:
        check_overrides([text], access())
    assert str(refused.value).isascii()
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["seed=1"] * 11, "give at most 10"),
        (["study.name=" + "a" * 100], "111 characters; give at most 50"),
        (["+deepspeed.extra.a=" + "[" * 20 + "]" * 20], "nest at most 16"),
        (["seed=range(0,20)", "optimizer.lr=1,2,3"], "60 variants"),
    ],
)
def test_sizes_are_bounded(overrides: list[str], problem: str) -> None:
    limits = access(max_overrides=10, max_override_chars=100 if problem.startswith("nest") else 50, max_variants=50)
    with pytest.raises(ConfigError, match=problem):
        check_overrides(overrides, limits)


@pytest.mark.parametrize("sweep", ["range(0,1000000)", "shuffle(range(0,1e15,0.5))"])
def test_a_sweep_that_is_too_large_is_counted_not_made(sweep: str) -> None:
    before = time.perf_counter()
    with pytest.raises(ConfigError, match="variants"):
        check_overrides([f"seed={sweep}", f"optimizer.lr={sweep}"], access())
    assert time.perf_counter() - before < 1.0


@given(st.lists(st.text(max_size=60), max_size=3))
def test_whatever_is_sent_is_checked_or_refused(overrides: list[str]) -> None:
    # Anything else than a refusal would be a fault of the service.
    with suppress(ConfigError):
        check_overrides(overrides, access())


def test_the_default_variant_is_allowed() -> None:
    check_variants([composed()], access())


@pytest.mark.parametrize("name", ["algorithm.entrypoint", "task.loader", "recipe.stages.warmup.algorithm.entrypoint"])
@pytest.mark.parametrize(
    "imported",
    [
        "os:system",
        "subprocess:run",
        "experimentsx.stages:run",
        "experiments_evil:run",
        "experiments",
        "experiments:",
        "experiments/../os:system",
        "experiments..os:system",
        "experiments:os.system",
        ".experiments:run",
    ],
)
def test_what_is_imported_lies_below_a_root(name: str, imported: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}=.*give package.module:function below"):
        check_variants([with_value(name, imported)], access())


def test_a_root_that_an_admin_opens_is_open() -> None:
    variant = with_value("algorithm.entrypoint", "our_stages.dpo:run")
    check_variants([variant], access(import_roots=["experiments", "our_stages"]))


@pytest.mark.parametrize("path", ["/etc/passwd", "../secret", "~/secret", "file:/etc/passwd", "relative.jsonl", "/"])
def test_a_path_outside_of_the_roots_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"^task.path=.*give a path below"):
        check_variants([with_value("task.path", path)], access(path_roots=[str(tmp_path)]))


def test_a_path_below_a_root_is_allowed(tmp_path: Path) -> None:
    check_variants([with_value("task.path", str(tmp_path / "a" / "b.jsonl"))], access(path_roots=[str(tmp_path)]))


def test_a_path_cant_climb_out_of_a_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(ConfigError, match=r"^task.path="):
        check_variants([with_value("task.path", f"{tmp_path}/root/../secret")], access(path_roots=[f"{tmp_path}/root"]))


def test_a_link_cant_lead_out_of_a_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to(root / "loop")
    for name in ("link", "loop"):
        with pytest.raises(ConfigError, match=r"^task.path="):
            check_variants([with_value("task.path", str(root / name))], access(path_roots=[str(root)]))


def test_a_root_may_be_a_link_itself(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "root").symlink_to(tmp_path / "data")
    for root in ("data", "root"):
        variant = with_value("task.path", str(tmp_path / "root" / "x"))
        check_variants([variant], access(path_roots=[str(tmp_path / root)]))


@pytest.mark.parametrize(
    "extra",
    [
        {"nvme_path": "scratch"},
        {"output_dir": "x"},
        {"anything": "/etc/passwd"},
        {"nested": {"deep": ["a", "b/../../c"]}},
        {"log_file": "x"},
    ],
)
def test_what_else_names_files_is_held_to_the_roots(extra: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^deepspeed.extra\..*give a path below"):
        check_variants([with_value("deepspeed.extra", extra)], access())


@pytest.mark.parametrize(
    "prompt", ["{question.__class__}", "{question:>9999999999}", "{question!r:{metadata[x]}}", "{", "{a}}"]
)
def test_a_prompt_shows_fields_only(prompt: str) -> None:
    with pytest.raises(ConfigError, match=r"^task.prompt="):
        check_variants([with_value("task.prompt", prompt)], access())


@pytest.mark.parametrize("name", ["study.name", "study.tenant", "algorithm.name", "task.name"])
@pytest.mark.parametrize("value", ["..", "a/b", "a b", "x" * 101, ".hidden"])
def test_names_are_fit_for_ids_and_files(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}="):
        check_variants([with_value(name, value)], access())


@pytest.mark.parametrize("value", [2**63, -(2**63), 10**400, float("nan"), float("inf")])
def test_numbers_are_finite_and_fit_64_bits(value: float) -> None:
    with pytest.raises(ConfigError, match=r"^deepspeed.extra.a="):
        check_variants([with_value("deepspeed.extra.a", value)], access())


def test_problems_are_counted_over_all_tasks_of_a_study() -> None:
    small, large = with_value("task.size", 500_000), with_value("task.size", 600_000)
    check_variants([large, large], access())
    with pytest.raises(ConfigError, match=r"^task.size=1100000"):
        check_variants([small, large], access())
