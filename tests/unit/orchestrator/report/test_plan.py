"""What a dry run says on a terminal of 80 columns."""

from pathlib import Path

import pytest

from orchestrator.report.plan import notes_of, print_plan
from tests.hf_models import QWEN_2_5_0_5B, write_published
from tests.unit.orchestrator.control.rigs import composed


def test_a_plan_fits_the_terminal_and_cuts_no_override(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_plan(composed("study=rl_vs_sft", "seed=0,1"))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    assert printed.startswith("rl_vs_sft: 8 variants, 9 stage runs")
    assert printed.count("optimizer.lr=0.001 seed=1") == 2
    assert "7 of 16 stage runs are saved by sharing. Nothing was started." in printed


@pytest.mark.parametrize("installed", [False, True])
def test_who_asks_for_vllm_is_told_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setattr("orchestrator.report.plan.find_spec", lambda name: object() if installed else None)
    folder = write_published(tmp_path / "model", QWEN_2_5_0_5B)
    model = ["model=hf", f"model.path={folder}", "model.training=full"]
    notes = notes_of(composed(*model, "rollout=vllm"))
    assert [note.split(":")[0] for note in notes] == ([] if installed else ["rollout.engine=vllm"])
    assert notes_of(composed(*model)) == []


def test_who_would_take_turns_with_nobody_is_told() -> None:
    (note,) = notes_of(composed("algorithm=grpo", "phases=antiphase"))
    assert "cluster.share_per_trial=0.5" in note
    assert notes_of(composed("algorithm=grpo", "phases=antiphase", "cluster.share_per_trial=0.5")) == []


def test_what_all_variants_have_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    print_plan(composed("algorithm=sft,grpo", "+study.sweep={optimizer.lr: '3e-4', task: gcd}"))
    printed = " ".join(capsys.readouterr().out.split())
    assert "All variants: optimizer.lr=0.0003 task=gcd." in printed
    assert printed.count("task=gcd") == 1
