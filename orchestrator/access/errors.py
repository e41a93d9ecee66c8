"""What is answered when something can't be done: always `{"error": ...}`, and 5xx only if it is the service's fault."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from orchestrator.access.messages import ErrorAnswer, Json
from orchestrator.config import ConfigError
from orchestrator.control.operations import Forbidden, NotFound
from orchestrator.ports import StoreUnavailable

RETRY_AFTER_S = 2

_MAX_PROBLEMS = 5

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "No request of this service"},
    401: {"model": ErrorAnswer, "description": "No token, or one that is unknown or was revoked"},
    403: {"model": ErrorAnswer, "description": "The role or the tenant of the token doesn't allow it"},
    404: {"model": ErrorAnswer, "description": "There is no such thing, or none that the token may know of"},
    # Text if the announced length is too large already: then nothing of the service has looked at the request.
    413: {"model": ErrorAnswer, "content": {"text/plain": {}}, "description": "The body is too large"},
    422: {"model": ErrorAnswer, "description": "A value that can't be used"},
    503: {"model": ErrorAnswer, "description": "The store can't be reached now"},
}


def answer_errors(app: FastAPI) -> None:
    """Say what was raised in the service's own form."""

    @app.exception_handler(ConfigError)
    def unusable(_request: Request, error: ConfigError) -> Response:
        return _answer(422, str(error))

    @app.exception_handler(NotFound)
    def unknown(_request: Request, error: NotFound) -> Response:
        return _answer(404, str(error))

    @app.exception_handler(Forbidden)
    def forbidden(_request: Request, error: Forbidden) -> Response:
        return _answer(403, str(error))

    @app.exception_handler(StoreUnavailable)
    def unavailable(_request: Request, error: StoreUnavailable) -> Response:
        return _answer(503, f"the store can't be reached now: {error}", {"Retry-After": str(RETRY_AFTER_S)})

    @app.exception_handler(StarletteHTTPException)
    def other(_request: Request, error: StarletteHTTPException) -> Response:
        return _answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> Response:
        problems = error.errors()[:_MAX_PROBLEMS]
        return _answer(422, "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in problems))


def _answer(status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    return Json({"error": error}, status_code=status, headers=dict(headers or {}))
