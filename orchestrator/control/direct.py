"""The operations on the store itself: for whoever may open it, and for the HTTP service."""

import time
from collections.abc import Sequence

from orchestrator.config import ConfigError
from orchestrator.control import views
from orchestrator.control.operations import Document, LogChunk, Submitted
from orchestrator.events import RecordStudy, RecordTrial
from orchestrator.home import Home
from orchestrator.ports import Store
from orchestrator.schema import Command, CommandKind, Study, Trial
from orchestrator.service.rooms import build_tenants
from orchestrator.service.sharing_file import pairs_for_report, read_sharing
from orchestrator.store.opening import find_study
from orchestrator.submission import Submission, prepare
from orchestrator.sweep import compose_like
from orchestrator.variants import variant_to_data


class DirectOperations:
    """`control.operations.Operations` on a store. `author` stands beside every command."""

    def __init__(self, store: Store, home: Home, author: str) -> None:
        self._store = store
        self._home = home
        self._author = author

    def submit(self, overrides: Sequence[str]) -> Submitted:
        return self.submit_prepared(prepare(overrides, self._home))

    def submit_prepared(self, submission: Submission) -> Submitted:
        """Queue what `prepare` composed. Raises ConfigError for a tenant that the service doesn't know."""
        now = time.time()
        study = submission.new_study(now)
        self._check_tenant(study)
        trials = submission.trials(study)
        command = Command(command_id=0, at=now, author=self._author, kind=CommandKind.SUBMIT, target=study.study_id)
        records = [RecordTrial(trial=trial, was=None, at=now) for trial in trials]
        command_id = self._store.submit(command, RecordStudy(study=study), records)
        return Submitted(study_id=study.study_id, trials=submission.trial_count, command_id=command_id)

    def command(self, kind: CommandKind, target: str) -> int:
        return self._queue(kind, self._resolve(target))

    def clone(self, trial_id: str, overrides: Sequence[str], *, warm: bool) -> int:
        trial = self._trial(trial_id)
        study = self._store.study(trial.study_id)
        variant = compose_like(study.overrides, trial.variant, overrides)
        return self._queue(CommandKind.CLONE, trial.trial_id, variant=variant_to_data(variant), warm=warm)

    def extend(self, trial_id: str, max_steps: int) -> int:
        trial = self._trial(trial_id)
        had = trial.variant.stages[-1].budget_steps
        if max_steps <= had:
            raise ConfigError("max_steps", max_steps, f"{trial.trial_id} has {had} already; give more than that")
        study = self._store.study(trial.study_id)
        variant = compose_like(study.overrides, trial.variant, [f"algorithm.max_steps={max_steps}"])
        return self._queue(CommandKind.EXTEND, trial.trial_id, variant=variant_to_data(variant))

    def answer(self, command_id: int) -> Command:
        try:
            return self._store.command(command_id)
        except KeyError:
            raise ConfigError("command", command_id, "there is no such command") from None

    def status(self, target: str) -> Document:
        at = time.time()
        sharing = read_sharing(self._home, at)
        return views.status_document(self._store, self._resolve(target) if target else "", at, sharing)

    def explain(self, trial_id: str) -> Sequence[str]:
        at = time.time()
        return views.explanation(self._store, self._trial(trial_id).trial_id, at, read_sharing(self._home, at))

    def studies(self) -> Sequence[Document]:
        return views.studies_document(self._store, time.time())

    def report(self, study_id: str) -> Document:
        study = find_study(self._store, study_id or None)
        at = time.time()
        return views.report_document(self._store, study, at, pairs_for_report(self._home, study, at))

    def logs(self, trial_id: str, bundle_id: str, offset: int) -> LogChunk:
        return views.log_chunk(self._store, self._home, self._trial(trial_id), bundle_id, offset)

    def close(self) -> None:
        self._store.close()

    def _queue(self, kind: CommandKind, target: str, **payload: object) -> int:
        command = Command(command_id=0, at=time.time(), author=self._author, kind=kind, target=target, payload=payload)
        return self._store.submit(command)

    def _check_tenant(self, study: Study) -> None:
        """Against the tenants of whoever serves, or served last: it has the last word once it takes the study in."""
        tenants = build_tenants(self._store.lease().config.get("tenants", {"tenants": {}}))
        if tenants and study.tenant not in tenants:
            raise ConfigError("study.tenant", study.tenant, f"no such tenant; there is: {', '.join(sorted(tenants))}")
        if tenants and study.priority > tenants[study.tenant].max_priority:
            highest = tenants[study.tenant].max_priority
            raise ConfigError("study.priority", study.priority, f"tenant {study.tenant} may go up to {highest}")

    def _resolve(self, target: str) -> str:
        """A trial's or a study's id; "" is the last study, and "#3" its trial 3. Raises ConfigError if there is no such
        thing."""
        target = self._spelled_out(target)
        if target:
            try:
                return self._store.trial(target).trial_id
            except KeyError:
                pass
        return find_study(self._store, target or None).study_id

    def _spelled_out(self, target: str) -> str:
        number = target.removeprefix("#")
        return f"{find_study(self._store, None).study_id}-{int(number):04d}" if number.isdecimal() else target

    def _trial(self, trial_id: str) -> Trial:
        try:
            return self._store.trial(self._spelled_out(trial_id))
        except KeyError:
            remedy = "no such trial; `orchestrator status` lists them"
            raise ConfigError("trial", trial_id, remedy) from None
