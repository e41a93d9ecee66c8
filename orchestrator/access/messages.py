"""What goes over the wire, with its bounds: the bodies of requests and responses."""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import Path
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from orchestrator.access.tokens import NAME_PATTERN
from orchestrator.schema import Role

_ID_PATTERN = r"^[^\x00-\x1f\x7f]*$"
_MAX_INT32 = 2**31 - 1
MAX_OFFSET = 2**53

PathId = Annotated[str, Path(min_length=1, max_length=200, pattern=_ID_PATTERN)]
PathNumber = Annotated[int, Path(ge=1, le=_MAX_INT32)]
Id = Annotated[str, Field(max_length=200, pattern=_ID_PATTERN)]
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Overrides = Annotated[
    list[Annotated[str, Field(max_length=20_000)]],
    Field(max_length=10_000, description="Hydra overrides, as on the command line", examples=[["algorithm=sft,grpo"]]),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StudyRequest(_Body):
    """A study to submit."""

    overrides: Overrides


class CommandRequest(_Body):
    """What to do with a study or a trial; "" is the last study."""

    kind: Literal["pause", "resume", "cancel", "retry"]
    target: Id = ""


class CloneRequest(_Body):
    """A further trial with the parent's config and `overrides`; a warm one starts from the parent's checkpoint."""

    overrides: Overrides
    warm: bool = False


class ExtendRequest(_Body):
    """The whole budget that the trial's last stage shall have."""

    max_steps: Annotated[int, Field(ge=1, le=_MAX_INT32)]


class TokenRequest(_Body):
    """A token to make."""

    name: Name
    role: Role
    tenant: Name = "default"


class ErrorAnswer(BaseModel):
    """What is wrong, and what would do."""

    error: str


class HealthAnswer(BaseModel):
    """The service answers."""

    status: Literal["ok"] = "ok"


class SubmittedAnswer(BaseModel):
    """A study that was queued, and the command that stands for it."""

    study_id: str
    trials: int
    command_id: int


class QueuedAnswer(BaseModel):
    """The command that stands for what was asked."""

    command_id: int


class CommandAnswer(BaseModel):
    """A command as it stands; `answered_at` [s since the epoch] is null until it has taken effect."""

    command_id: int
    at: float
    author: str
    kind: str
    target: str
    payload: dict[str, Any]
    answered_at: float | None
    ok: bool
    answer: str


class LogAnswer(BaseModel):
    """A part of a trial's log; `offset` is where the next part begins."""

    text: str
    bundle_id: str
    offset: int
    over: bool


class TokenAnswer(BaseModel):
    """Who has a token. Times are in seconds since the epoch."""

    name: str
    role: Role
    tenant: str
    created_at: float
    revoked_at: float | None


class NewTokenAnswer(BaseModel):
    """The token itself, which nobody can show again."""

    name: str
    token: str


class ServiceAnswer(BaseModel):
    """Who leads, since when it was last seen, with which config and devices, and how many commands wait."""

    term: int
    beat_at: float
    holder: dict[str, Any] | None
    config: dict[str, Any]
    devices: list[dict[str, Any]]
    pending_commands: int


class Json(JSONResponse):
    """JSON that every parser takes: a number that isn't finite (a loss that diverged) is null, text is ASCII."""

    def render(self, content: Any) -> bytes:
        return json.dumps(_finite(content), allow_nan=False, separators=(",", ":")).encode()


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
