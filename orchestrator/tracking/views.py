"""How a study's page on an MLflow server looks: its layout, and the saved views under its "Views" button. Pure."""

import json
from collections.abc import Mapping
from itertools import islice
from typing import Final

from orchestrator.schema import Study

# More, or longer ones, and a saved view could outgrow the tag that holds it.
MAX_SWEPT_COLUMNS: Final = 6
MAX_SWEPT_NAME_CHARS: Final = 40

COMPARISON_VIEW: Final = "comparison"
"""Key of the saved view of a study's page that lists its trials, the best first, in the columns that matter."""

ALGORITHMS_VIEW: Final = "algorithms"
"""Key of the saved view that groups the trials by algorithm: means in the table, a band per algorithm in the charts."""

_TRIAL_COLUMNS: Final = {"tags.`algorithm`": 80, "params.`optimizer.lr`": 85, "params.`seed`": 55}
_RESULT_COLUMNS: Final = {
    "metrics.`accuracy`": 90,
    "metrics.`dev_accuracy`": 100,
    "metrics.`gpu_seconds`": 95,
    "metrics.`tokens_per_answer`": 130,
    "metrics.`time_to_answer_p50_s`": 135,
    "metrics.`experiments_per_gpu_hour`": 140,
    "tags.`state`": 90,
    "metrics.`start_accuracy`": 110,
}
_SWEPT_COLUMN_WIDTH: Final = 120
_RUN_NAME_WIDTH: Final = 205


def page_path(experiment_id: str) -> str:
    """The path of a study's comparison on an MLflow server's pages."""
    # The pages take their layout from the address, "GenAI" by default; the experiment's own tag no longer decides.
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={COMPARISON_VIEW}"


def experiment_tags(study: Study) -> dict[str, str]:
    """How the study's page looks: its kind, what is compared, and two saved views under the page's "Views" button."""
    # Runs nest only while they are sorted by time, and MLflow drops which ones are expanded from a saved view: sorted
    # by accuracy, all trials are in sight, the best on top and the study's own run at the end.
    trials = {"orderByKey": "metrics.`accuracy`", "orderByAsc": False, **_columns(study), "runsHiddenMode": "SHOW_ALL"}
    by_algorithm = {
        **trials,
        "searchFilter": "tags.`orchestrator.kind` = 'trial'",
        "groupBy": {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "algorithm"}]},
    }
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.experiment.primaryMetric.name": "accuracy",
        "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
        **_saved_view(ALGORITHMS_VIEW, "By algorithm", by_algorithm, study.submitted_at),
        **_saved_view(COMPARISON_VIEW, "Trials, best first", trials, study.submitted_at + 1.0),
    }


def _saved_view(key: str, name: str, state: Mapping[str, object], at: float) -> dict[str, str]:
    """The tag that the page's own "Save as new view" writes; servers before its names read the plain state beside."""
    return {
        f"mlflow.sharedViewState.{key}": json.dumps(
            {"name": name, "createdAt": int(1000 * at), "state": json.dumps(state), **state}
        )
    }


def _columns(study: Study) -> dict[str, object]:
    """What was swept, what came of it and what it cost, in this order and in widths that one screen holds."""
    names = (override.partition("=")[0].lstrip("+") for override in study.sweep)
    columns = (f"params.`{name}`" for name in names if _is_param(name))
    swept = islice((column for column in columns if column not in _TRIAL_COLUMNS), MAX_SWEPT_COLUMNS)
    widths = {**_TRIAL_COLUMNS, **dict.fromkeys(swept, _SWEPT_COLUMN_WIDTH), **_RESULT_COLUMNS}
    name = "attributes.`Run Name`"
    return {
        "selectedColumns": list(widths),
        "columnOrder": [name, *widths],
        "columnWidths": {name: _RUN_NAME_WIDTH, **widths},
    }


def _is_param(name: str) -> bool:
    """Whether an override of that name sets a value, not the choice of a config group (`task`, `model/size@here`)."""
    return "." in name and len(name) <= MAX_SWEPT_NAME_CHARS and not set("/@~`") & set(name)
