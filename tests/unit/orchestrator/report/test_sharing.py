"""Measured slowdowns as rows, and in the forms of the report."""

from orchestrator.report.document import build_report
from orchestrator.report.sharing import sharing_grid
from orchestrator.report.table import markdown
from tests.unit.orchestrator.report.studies import A_PAIR, a_study


def test_a_pair_has_a_row_for_each_side() -> None:
    assert sharing_grid([A_PAIR]).rows == (
        ("grpo", "sft", "0.5 + 0.25", "1.40", "1.30-1.50", "12", "1.41", "1.35-1.47"),
        ("sft", "grpo", "0.25 + 0.5", "1.43", "1.38-1.48", "30", "1.41", "1.35-1.47"),
    )


def test_a_kind_beside_itself_has_one_row() -> None:
    assert len(sharing_grid([A_PAIR | {"kinds": ["sft", "sft"]}]).rows) == 1


def test_what_is_only_the_prior_is_left_out() -> None:
    unknown = A_PAIR["slowdowns"][0] | {"intervals": 0}
    assert sharing_grid([A_PAIR | {"slowdowns": [unknown, A_PAIR["slowdowns"][1]]}]).rows == ()


def test_the_report_shows_it_where_something_was_measured() -> None:
    assert "## Sharing a device" in markdown(build_report(a_study(), [], [], now=0.0, sharing=[A_PAIR]))
    assert "Sharing a device" not in markdown(build_report(a_study(), [], [], now=0.0))
