"""The report of a study that is over, written where leads find it."""

from collections.abc import Callable, Mapping, Sequence

from orchestrator.accounting import own_and_beside
from orchestrator.events import StudyFinished
from orchestrator.home import Home
from orchestrator.report.document import build_report
from orchestrator.report.estimates import estimate_metrics
from orchestrator.report.files import write_report_files
from orchestrator.report.gain import NO_OUTCOMES, telling_stages
from orchestrator.report.regret import regret_metrics
from orchestrator.schema import Allocation, Outcome, Prediction, Study, Trial
from orchestrator.service.sharing_file import read_sharing
from orchestrator.throughput import throughput


def finish_study(
    home: Home,
    study: Study,
    trials: Sequence[Trial],
    allocations: Sequence[Allocation],
    predictions: Sequence[Prediction],
    completed_stages: Callable[[Sequence[str]], Mapping[str, Outcome]] = lambda keys: NO_OUTCOMES,
) -> StudyFinished:
    """Write the report's files; its numbers and their paths. `allocations`: see `report.document.build_report`;
    `completed_stages`: see `ports.LeaderStore`."""
    ended_at = study.ended_at if study.ended_at is not None else study.submitted_at
    sharing = read_sharing(home, ended_at).pairs
    outcomes = completed_stages(telling_stages(trials))
    document = build_report(study, trials, allocations, ended_at, predictions, sharing, outcomes)
    files = write_report_files(document, home.report_folder(study.study_id))
    own, beside = own_and_beside(study.study_id, allocations)
    metrics = throughput(trials, own, ended_at, beside) | estimate_metrics(document["estimates"])
    metrics |= regret_metrics(document["pruning_regret"])
    return StudyFinished(metrics=metrics, artifacts=tuple(str(path) for path in files))
