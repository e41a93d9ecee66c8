"""The operations, as one Protocol: `direct` carries them out on the store, `remote` asks a service over HTTP.

Documents are plain data, the same from both. Whatever can't be done raises `config.ConfigError` (it names field, value
and remedy), `Forbidden`, or from a service that can't be asked `ServiceUnavailable`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.config import ConfigError
from orchestrator.schema import Command, CommandKind

Document = Mapping[str, Any]


class Forbidden(Exception):
    """The caller's role or tenant doesn't allow it. The message says what would."""


class NotFound(ConfigError):
    """There is no such study, trial or command, or none that the caller may know of."""


class ServiceUnavailable(Exception):
    """The service can't be reached, or can't answer now. The message names its address and what would do."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"ORCHESTRATOR_URL={url}: {reason}; is `orchestrator serve --http` running there?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A study that was queued, and the command that stands for it."""

    study_id: str
    trials: int
    command_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """A part of a trial's log. `offset` is where the next part begins; `over`: the trial runs no more and all is read.

    `bundle_id` names the run that the part is of: every attempt of every stage has a log of its own.
    """

    text: str
    bundle_id: str
    offset: int
    over: bool


class Operations(Protocol):
    """`target` is a study's or a trial's id, or "" for the last study."""

    def submit(self, overrides: Sequence[str]) -> Submitted:
        """Compose, validate and queue a study; it starts once a service takes it in."""

    def command(self, kind: CommandKind, target: str) -> int:
        """Queue a pause, resume, cancel or retry. The command's id."""

    def clone(self, trial_id: str, overrides: Sequence[str], *, warm: bool) -> int:
        """Queue a further trial of the same study: the parent's config with `overrides`. The command's id."""

    def extend(self, trial_id: str, max_steps: int) -> int:
        """Queue a larger budget for a trial. The command's id."""

    def answer(self, command_id: int) -> Command:
        """The command as it stands; `answered_at` is None until it has taken effect."""

    def status(self, target: str) -> Document:
        """See `views.status_document`."""

    def explain(self, trial_id: str) -> Sequence[str]:
        """Why the trial is where it is, in words; see `views.explanation`."""

    def studies(self) -> Sequence[Document]:
        """One entry per study, oldest first."""

    def report(self, study_id: str) -> Document:
        """See `report.document`."""

    def logs(self, trial_id: str, bundle_id: str, offset: int) -> LogChunk:
        """What the trial printed behind `offset` of that bundle's log; ("", 0) is the beginning of all."""

    def close(self) -> None: ...
