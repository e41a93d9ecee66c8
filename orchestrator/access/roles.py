"""What each role may do, and the operations within what a token allows."""

import logging
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import IntEnum, StrEnum
from typing import Any

from orchestrator.access.wire import check_overrides, check_variants
from orchestrator.config import AccessConfig, ConfigError
from orchestrator.control.direct import DirectOperations
from orchestrator.control.operations import Document, Forbidden, LogChunk, NotFound, Submitted
from orchestrator.home import Home
from orchestrator.ports import Store, StoreUnavailable
from orchestrator.redaction import redacted, redacted_override, redacted_text
from orchestrator.schema import Command, CommandKind, Role, Study, Token, Trial
from orchestrator.submission import prepare
from orchestrator.sweep import ComposedStudy, compose_like


class Operation(StrEnum):
    """What can be asked for over HTTP."""

    READ = "read"
    SUBMIT = "submit"
    CONTROL = "control"
    TOKENS = "tokens"
    SERVICE = "service"


class Reach(IntEnum):
    """Whose studies an operation may be about. What concerns everybody (tokens, the service) needs EVERY_TENANT."""

    NOTHING = 0
    OWN_TENANT = 1
    EVERY_TENANT = 2


PERMISSIONS: Mapping[Role, Mapping[Operation, Reach]] = {
    Role.RESEARCHER: {
        Operation.READ: Reach.OWN_TENANT,
        Operation.SUBMIT: Reach.OWN_TENANT,
        Operation.CONTROL: Reach.OWN_TENANT,
        Operation.TOKENS: Reach.NOTHING,
        Operation.SERVICE: Reach.NOTHING,
    },
    Role.LEAD: {
        Operation.READ: Reach.EVERY_TENANT,
        Operation.SUBMIT: Reach.OWN_TENANT,
        Operation.CONTROL: Reach.OWN_TENANT,
        Operation.TOKENS: Reach.NOTHING,
        Operation.SERVICE: Reach.NOTHING,
    },
    Role.ADMIN: dict.fromkeys(Operation, Reach.EVERY_TENANT),
}

logger = logging.getLogger(__name__)

_OVERRIDE_LISTS = frozenset({"overrides", "sweep"})


def require(token: Token, operation: Operation) -> None:
    """Raises Forbidden unless the token's role reaches every tenant with `operation`."""
    if PERMISSIONS[token.role][operation] < Reach.EVERY_TENANT:
        raise Forbidden(f"{token.name} is a {token.role}; {operation} is for an admin")


class ScopedOperations:
    """`control.operations.Operations` on a store, in the name of a token's owner and within what it allows.

    Whoever may not read a tenant's studies is answered as if they were not there. Secrets are taken out of what is
    returned. Composing keeps a core busy and lets one caller in at a time; give it a thread of its own.
    """

    def __init__(self, store: Store, home: Home, token: Token, access: AccessConfig) -> None:
        self._store = store
        self._home = home
        self._token = token
        self._access = access
        self._direct = DirectOperations(store, home, author=token.name)

    def submit(self, overrides: Sequence[str]) -> Submitted:
        """A study of the token's tenant, unless the overrides name another one."""
        parsed = check_overrides(overrides, self._access)
        named = any(override.key_or_group == "study.tenant" for override in parsed)
        own = [] if named else [f"study.tenant='{self._token.tenant}'"]
        with _refusing_what_fails():
            submission = prepare([*overrides, *own], self._home, self._check_study, self._access.max_variants)
        return self._direct.submit_prepared(submission)

    def command(self, kind: CommandKind, target: str) -> int:
        trial_id, study = self._target(Operation.CONTROL, target)
        return self._direct.command(kind, trial_id or study.study_id)

    def clone(self, trial_id: str, overrides: Sequence[str], *, warm: bool) -> int:
        trial, study = self._trial(Operation.CONTROL, trial_id)
        check_overrides(overrides, self._access)
        with _refusing_what_fails():
            check_variants([compose_like(study.overrides, trial.variant, overrides)], self._access)
        return self._direct.clone(trial_id, overrides, warm=warm)

    def extend(self, trial_id: str, max_steps: int) -> int:
        self._trial(Operation.CONTROL, trial_id)
        with _refusing_what_fails():
            return self._direct.extend(trial_id, max_steps)

    def answer(self, command_id: int) -> Command:
        try:
            command = self._store.command(command_id)
            self._target(Operation.READ, command.target)
        except (KeyError, NotFound):
            raise NotFound("command", command_id, "there is no such command") from None
        return replace(command, payload=_shown(command.payload), answer=redacted_text(command.answer))

    def status(self, target: str) -> Document:
        if target:
            trial_id, study = self._target(Operation.READ, target)
            return _shown(self._within_reach(self._direct.status(trial_id or study.study_id)))
        return _shown(self._within_reach(self._direct.status("")))

    def explain(self, trial_id: str) -> Sequence[str]:
        """Studies that the token may not read are in it, since they stand in the way, but not by their ids."""
        self._trial(Operation.READ, trial_id)
        within = self._visible()
        others = [s.study_id for s in self._store.studies() if s.study_id not in within]
        # Longest first: an id may begin with another one.
        named = re.compile("|".join(re.escape(study_id) for study_id in sorted(others, key=len, reverse=True)) or "$.")
        return [named.sub("another tenant's study", redacted_text(line)) for line in self._direct.explain(trial_id)]

    def studies(self) -> Sequence[Document]:
        within = self._visible()
        return [_shown(document) for document in self._direct.studies() if document["id"] in within]

    def report(self, study_id: str) -> Document:
        return _shown(self._direct.report(self._study(Operation.READ, study_id).study_id))

    def logs(self, trial_id: str, bundle_id: str, offset: int) -> LogChunk:
        self._trial(Operation.READ, trial_id)
        return self._direct.logs(trial_id, bundle_id, offset)

    def close(self) -> None:
        """Nothing: the store is the service's."""

    # --- what the token allows ---------------------------------------------------------------------------------------

    def _reaches(self, operation: Operation, tenant: str) -> bool:
        reach = PERMISSIONS[self._token.role][operation]
        return reach is Reach.EVERY_TENANT or (reach is Reach.OWN_TENANT and tenant == self._token.tenant)

    def _permit(self, operation: Operation, study: Study, unknown: NotFound) -> None:
        if not self._reaches(Operation.READ, study.tenant):
            raise unknown
        if not self._reaches(operation, study.tenant):
            raise Forbidden(f"{study.study_id} is tenant {study.tenant}'s; {self._token.name} may look at it only")

    def _study(self, operation: Operation, study_id: str) -> Study:
        """The study, or for "" the last one within reach."""
        unknown = NotFound("study", ascii(study_id or "(last)"), "no such study; `orchestrator status` lists them")
        if not study_id:
            within = [study for study in self._store.studies() if self._reaches(operation, study.tenant)]
            if not within:
                raise unknown
            return within[-1]
        try:
            study = self._store.study(study_id)
        except KeyError:
            raise unknown from None
        self._permit(operation, study, unknown)
        return study

    def _trial(self, operation: Operation, trial_id: str) -> tuple[Trial, Study]:
        unknown = NotFound("trial", ascii(trial_id), "no such trial; `orchestrator status` lists them")
        try:
            trial = self._store.trial(trial_id)
        except KeyError:
            raise unknown from None
        study = self._store.study(trial.study_id)
        self._permit(operation, study, unknown)
        return trial, study

    def _target(self, operation: Operation, target: str) -> tuple[str, Study]:
        """A trial's id, or "" if `target` is a study's, and the study."""
        try:
            trial, study = self._trial(operation, target)
        except NotFound:
            return "", self._study(operation, target)
        return trial.trial_id, study

    def _visible(self) -> set[str]:
        """The ids of the studies that the token may read."""
        return {study.study_id for study in self._store.studies() if self._reaches(Operation.READ, study.tenant)}

    def _sees(self, target: str) -> bool:
        try:
            self._target(Operation.READ, target)
        except NotFound:
            return False
        return True

    def _within_reach(self, document: Document) -> Document:
        """A status without what other tenants do: that a device is held is told, not by whom."""
        if PERMISSIONS[self._token.role][Operation.READ] is Reach.EVERY_TENANT:
            return document
        within = self._visible()
        return {
            **document,
            "studies": [study for study in document["studies"] if study["id"] in within],
            "trials": [trial for trial in document["trials"] if trial["study"] in within],
            "commands": [command for command in document["commands"] if self._sees(command["target"])],
            "devices": [
                {**device, "residents": [held for held in device["residents"] if held["study"] in within]}
                for device in document["devices"]
            ],
        }

    def _check_study(self, composed: ComposedStudy) -> None:
        tenant = composed.config["study"]["tenant"]
        if not self._reaches(Operation.SUBMIT, tenant):
            raise Forbidden(f"{self._token.name} submits for tenant {self._token.tenant}, not for {tenant!a}")
        check_variants((*composed.variants, *composed.probes), self._access)


def _shown(document: Document) -> Document:
    """Without its secrets, those in overrides included."""

    def masked(data: Any) -> Any:
        if isinstance(data, Mapping):
            return {
                key: [redacted_override(str(text)) for text in value]
                if key in _OVERRIDE_LISTS and isinstance(value, list | tuple)
                else masked(value)
                for key, value in data.items()
            }
        return [masked(value) for value in data] if isinstance(data, list | tuple) else data

    shown: Document = masked(redacted(document))
    return shown


@contextmanager
def _refusing_what_fails() -> Iterator[None]:
    """Composing and reading a task runs Hydra's and other people's code on what the caller wrote: whatever
    it raises says that the config can't run, and is refused as such."""
    try:
        yield
    except (ConfigError, Forbidden, StoreUnavailable):
        raise
    except Exception as error:
        # Where, not what: messages quote values, and values may be secrets.
        where = "".join(traceback.format_tb(error.__traceback__))
        logger.warning("a config that arrived over the wire can't be composed (%s):\n%s", type(error).__name__, where)
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError("overrides", ascii(problem[:200]), "give values of the kinds that the fields have") from error
