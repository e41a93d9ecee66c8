"""The operations over HTTP: `/v1`, bearer tokens, and an answer of class 4xx for whatever can't be asked."""

import functools
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, ParamSpec, TypeVar

import anyio
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from orchestrator.access.errors import ERRORS, answer_errors
from orchestrator.access.messages import (
    MAX_OFFSET,
    CloneRequest,
    CommandAnswer,
    CommandRequest,
    ExtendRequest,
    HealthAnswer,
    Id,
    Json,
    LogAnswer,
    NewTokenAnswer,
    PathId,
    PathNumber,
    QueuedAnswer,
    ServiceAnswer,
    StudyRequest,
    SubmittedAnswer,
    TokenAnswer,
    TokenRequest,
)
from orchestrator.access.roles import Operation, ScopedOperations, require
from orchestrator.access.tokens import authenticate, new_token
from orchestrator.config import AccessConfig
from orchestrator.control.operations import NotFound
from orchestrator.home import Home
from orchestrator.ports import Store
from orchestrator.redaction import redacted
from orchestrator.schema import CommandKind, Token

P = ParamSpec("P")
T = TypeVar("T")

Document = dict[str, Any]

_bearer = HTTPBearer(auto_error=False, description="A token that an admin made: `orc_...`")
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


def create_app(store: Store, home: Home, access: AccessConfig) -> FastAPI:
    """The service of a store. Whoever makes it closes the store after it."""

    def owner(credentials: _Credentials) -> Token:
        token = authenticate(store, credentials.credentials) if credentials else None
        if token is None:
            problem = "the token is unknown or was revoked" if credentials else "send `Authorization: Bearer <token>`"
            raise HTTPException(401, problem, headers={"WWW-Authenticate": "Bearer"})
        return token

    def operations(token: Annotated[Token, Depends(owner)]) -> ScopedOperations:
        return ScopedOperations(store, home, token, access)

    app = FastAPI(
        title="orchestrator",
        version="1",
        description="Studies, trials and what is done with them; see `orchestrator --help`.",
        default_response_class=Json,
        max_body_size=access.max_body_bytes,
        # The pages would load scripts from elsewhere into a page that tokens are typed into.
        docs_url=None,
        redoc_url=None,
    )
    answer_errors(app)

    @app.get("/healthz")
    def health() -> HealthAnswer:
        """Whether the service answers at all. Needs no token."""
        return HealthAnswer()

    composing = _Composing()
    app.include_router(_studies(operations, composing), prefix="/v1", responses=ERRORS)
    app.include_router(_trials(operations, composing), prefix="/v1", responses=ERRORS)
    app.include_router(_administration(store, owner), prefix="/v1", responses=ERRORS)
    return app


class _Composing:
    """Runs what composes in a thread of its own, one after the other: the threads that answer readers stay free."""

    def __init__(self) -> None:
        self._limiter = anyio.CapacityLimiter(1)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        call = functools.partial(function, *args, **kwargs)
        return await anyio.to_thread.run_sync(call, limiter=self._limiter)


def _studies(operations: Callable[..., ScopedOperations], composing: _Composing) -> APIRouter:
    router = APIRouter(tags=["studies"])
    caller = Annotated[ScopedOperations, Depends(operations)]

    @router.post("/studies", status_code=201)
    async def submit(request: StudyRequest, asked: caller) -> SubmittedAnswer:
        """Compose, validate and queue a study."""
        submitted = await composing.run(asked.submit, request.overrides)
        return SubmittedAnswer(**asdict(submitted))

    @router.get("/studies")
    def studies(asked: caller) -> list[Document]:
        """Oldest first."""
        return [dict(document) for document in asked.studies()]

    @router.get("/studies/{study_id}/report")
    def report(study_id: PathId, asked: caller) -> Document:
        """What the study achieved and what it cost."""
        return dict(asked.report(study_id))

    @router.get("/status")
    def overview(asked: caller) -> Document:
        """What the cluster does now."""
        return dict(asked.status(""))

    @router.get("/status/{target}")
    def status(target: PathId, asked: caller) -> Document:
        """Where a study or a trial stands."""
        return dict(asked.status(target))

    @router.post("/commands", status_code=202)
    def command(request: CommandRequest, asked: caller) -> QueuedAnswer:
        """Pause, resume, cancel or retry a study or a trial."""
        return QueuedAnswer(command_id=asked.command(CommandKind(request.kind), request.target))

    @router.get("/commands/{command_id}")
    def answer(command_id: PathNumber, asked: caller) -> CommandAnswer:
        """A command as it stands."""
        return CommandAnswer(**asdict(asked.answer(command_id)))

    return router


def _trials(operations: Callable[..., ScopedOperations], composing: _Composing) -> APIRouter:
    router = APIRouter(prefix="/trials/{trial_id}", tags=["trials"])
    caller = Annotated[ScopedOperations, Depends(operations)]

    @router.post("/clone", status_code=202)
    async def clone(trial_id: PathId, request: CloneRequest, asked: caller) -> QueuedAnswer:
        """Queue a further trial of the same study."""
        command_id = await composing.run(asked.clone, trial_id, request.overrides, warm=request.warm)
        return QueuedAnswer(command_id=command_id)

    @router.post("/extend", status_code=202)
    async def extend(trial_id: PathId, request: ExtendRequest, asked: caller) -> QueuedAnswer:
        """Give a trial a larger budget."""
        return QueuedAnswer(command_id=await composing.run(asked.extend, trial_id, request.max_steps))

    @router.get("/explain")
    def explain(trial_id: PathId, asked: caller) -> list[str]:
        """Why the trial is where it is, in words."""
        return list(asked.explain(trial_id))

    @router.get("/log")
    def log(
        trial_id: PathId,
        asked: caller,
        bundle_id: Id = "",
        offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
    ) -> LogAnswer:
        """What the trial printed behind `offset`."""
        return LogAnswer(**asdict(asked.logs(trial_id, bundle_id, offset)))

    return router


def _administration(store: Store, owner: Callable[..., Token]) -> APIRouter:
    router = APIRouter(tags=["administration"])

    def allowed(operation: Operation) -> Any:
        def check(token: Annotated[Token, Depends(owner)]) -> None:
            require(token, operation)

        return Depends(check)

    @router.get("/tokens", dependencies=[allowed(Operation.TOKENS)])
    def tokens() -> list[TokenAnswer]:
        """Who has a token, by name."""
        return [TokenAnswer.model_validate(token, from_attributes=True) for token in store.tokens()]

    @router.post("/tokens", status_code=201, dependencies=[allowed(Operation.TOKENS)])
    def make_token(request: TokenRequest) -> NewTokenAnswer:
        """Make a token and show it once."""
        token = new_token(store, request.name, request.role, request.tenant)
        return NewTokenAnswer(name=request.name, token=token)

    @router.delete("/tokens/{name}", status_code=204, dependencies=[allowed(Operation.TOKENS)])
    def revoke_token(name: PathId) -> None:
        """Revoke a token; the name stays taken."""
        try:
            store.revoke_token(name, time.time())
        except KeyError:
            raise NotFound("token", ascii(name), "there is no token of that name") from None

    @router.get("/service", dependencies=[allowed(Operation.SERVICE)])
    def service() -> ServiceAnswer:
        """Who leads, with what."""
        lease = store.lease()
        return ServiceAnswer(
            term=lease.term,
            beat_at=lease.beat_at,
            holder=asdict(lease.holder) if lease.holder else None,
            config=redacted(lease.config),
            devices=[asdict(device) for device in store.devices()],
            pending_commands=len(store.pending_commands()),
        )

    return router
