"""What a shared service keeps besides the work itself: who leads, what was asked for, what happened, who may ask."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A process. `started_at` [s since the epoch] tells it from a later one with the same number."""

    host: str
    pid: int
    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to schedule, of which a store has one.

    `term` grows by one whenever the lease changes hands and fences off earlier holders; `beat` grows with every sign
    of life, the last one at `beat_at` [s since the epoch]. `holder` is None once the lease was given back. `config`
    holds the holder's own config (cluster, ordering, packing, tenants), for people who ask why.
    """

    term: int
    beat: int
    beat_at: float
    holder: Holder | None
    config: Mapping[str, Any] = field(default_factory=dict)


class CommandKind(StrEnum):
    """What a person can ask of a trial or a study."""

    SUBMIT = "submit"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    CLONE = "clone"
    EXTEND = "extend"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A request to whoever leads. It is answered, in the transaction of its effect, once it has taken effect.

    `target` is a study's or a trial's id. `payload` is plain data: `{"variant": ..., "warm": bool}` for a clone,
    `{"variant": ...}` for an extension. `command_id` is 0 until the store has given it one.
    """

    command_id: int
    at: float
    author: str
    kind: CommandKind
    target: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    answered_at: float | None = None
    ok: bool = False
    answer: str = ""


class JournalKind(StrEnum):
    """What a line of the journal tells."""

    STUDY = "study"
    TRIAL = "trial"
    POINT = "point"
    FINISHED = "finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """One line of what happened, in the order of `sequence`. `payload` is plain data:

    `study`: {}; the study was submitted, changed or reopened. `trial`: the changed fields of the trial, `was` (its
    state before, "" for a new one) and `why`. `point`: `step` and `metrics` of one point of the trial's series.
    `finished`: `metrics` of the study and the paths of its `artifacts`.
    """

    sequence: int
    at: float
    kind: JournalKind
    study_id: str
    trial_id: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """When, at `made_at`, a queued trial was expected to start and to end [s since the epoch]."""

    trial_id: str
    study_id: str
    made_at: float
    start_at: float
    end_at: float


class Role(StrEnum):
    """What a token's owner may do; see `orchestrator/access`."""

    RESEARCHER = "researcher"
    LEAD = "lead"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An access token, by the SHA-256 of it (hex): the token itself is shown once and kept nowhere."""

    name: str
    digest: str
    role: Role
    tenant: str
    created_at: float
    revoked_at: float | None = None
