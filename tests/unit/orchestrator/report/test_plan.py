"""What a dry run says on a terminal of 80 columns."""

import pytest

from orchestrator.report.plan import print_plan
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
