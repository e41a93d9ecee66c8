"""The operations asked of a service over HTTP."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.util import Retry

from orchestrator.config import ConfigError
from orchestrator.control.operations import Document, Forbidden, LogChunk, NotFound, ServiceUnavailable, Submitted
from orchestrator.schema import Command, CommandKind

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
# The service composes and validates every variant, and reads the data, before it answers.
COMPOSE_TIMEOUT_S = 600.0

_RETRIES = Retry(
    total=3,
    backoff_factor=0.25,
    status_forcelist=(502, 503, 504),
    # What changes something may have happened although no answer came.
    allowed_methods=("GET",),
    raise_on_status=False,
)


class RemoteOperations:
    """`control.operations.Operations` of the service at `url`, as the owner of `token`.

    Raises ConfigError for an address or a token that can't be one.
    """

    def __init__(self, url: str, token: str) -> None:
        if not _is_address(url):
            raise ConfigError("ORCHESTRATOR_URL", "...", "give the service's address, such as http://127.0.0.1:8321")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigError("ORCHESTRATOR_TOKEN", "...", "give the token that an admin of the service made for you")
        self._url = url.rstrip("/")
        self._session = requests.Session()
        self._session.auth = _Bearer(token)
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=_RETRIES))

    def submit(self, overrides: Sequence[str]) -> Submitted:
        return Submitted(**self._post("/studies", {"overrides": list(overrides)}, COMPOSE_TIMEOUT_S))

    def command(self, kind: CommandKind, target: str) -> int:
        return int(self._post("/commands", {"kind": kind.value, "target": target})["command_id"])

    def clone(self, trial_id: str, overrides: Sequence[str], *, warm: bool) -> int:
        body = {"overrides": list(overrides), "warm": warm}
        return int(self._post(f"/trials/{_segment(trial_id)}/clone", body, COMPOSE_TIMEOUT_S)["command_id"])

    def extend(self, trial_id: str, max_steps: int) -> int:
        body = {"max_steps": max_steps}
        return int(self._post(f"/trials/{_segment(trial_id)}/extend", body, COMPOSE_TIMEOUT_S)["command_id"])

    def answer(self, command_id: int) -> Command:
        found = self._get(f"/commands/{command_id}")
        return Command(**{**found, "kind": CommandKind(found["kind"])})

    def status(self, target: str) -> Document:
        document: Document = self._get(f"/status/{_segment(target)}" if target else "/status")
        return document

    def explain(self, trial_id: str) -> Sequence[str]:
        lines: Sequence[str] = self._get(f"/trials/{_segment(trial_id)}/explain")
        return lines

    def studies(self) -> Sequence[Document]:
        documents: Sequence[Document] = self._get("/studies")
        return documents

    def report(self, study_id: str) -> Document:
        if not study_id:
            studies = self.studies()
            if not studies:
                raise NotFound("study", "(last)", "there is none yet; start one with `orchestrator submit`")
            study_id = studies[-1]["id"]
        document: Document = self._get(f"/studies/{_segment(study_id)}/report")
        return document

    def logs(self, trial_id: str, bundle_id: str, offset: int) -> LogChunk:
        where: Mapping[str, str | int] = {"bundle_id": bundle_id, "offset": offset}
        return LogChunk(**self._get(f"/trials/{_segment(trial_id)}/log", where))

    def close(self) -> None:
        self._session.close()

    def _get(self, path: str, query: Mapping[str, str | int] | None = None) -> Any:
        return self._ask("GET", path, READ_TIMEOUT_S, params=query)

    def _post(self, path: str, body: Mapping[str, object], timeout_s: float = READ_TIMEOUT_S) -> Any:
        return self._ask("POST", path, timeout_s, json=body)

    def _ask(self, method: str, path: str, timeout_s: float, **content: Any) -> Any:
        timeouts = (CONNECT_TIMEOUT_S, timeout_s)
        try:
            # A redirect would take the token to wherever it points.
            response = self._session.request(
                method, f"{self._url}/v1{path}", timeout=timeouts, allow_redirects=False, **content
            )
        except requests.RequestException as error:
            raise ServiceUnavailable(self._url, f"can't be reached ({_reason(error)})") from error
        answer = _json(response)
        if response.ok and answer is not None:
            return answer
        raise self._refusal(response.status_code, answer)

    def _refusal(self, status: int, answer: Any) -> Exception:
        if status == 413:
            return ConfigError("overrides", "...", "more than the service takes at once; see access.max_body_bytes")
        error = answer.get("error") if isinstance(answer, Mapping) else None
        if not isinstance(error, str) or not 400 <= status < 500:
            return ServiceUnavailable(self._url, error if isinstance(error, str) else f"answered with status {status}")
        if status == 401:
            return Forbidden(f"{error}; set ORCHESTRATOR_TOKEN to one that an admin of the service made for you")
        if status == 403:
            return Forbidden(error)
        refusal = (NotFound if status == 404 else ConfigError)("", "", "")
        # The service's own words, which name the field already.
        refusal.args = (error,)
        return refusal


class _Bearer(AuthBase):
    """Sends the token, whatever a `.netrc` says."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in url
    except ValueError:
        return False


def _segment(part: str) -> str:
    return quote(part, safe="")


def _json(response: requests.Response) -> Any:
    """None if it isn't JSON: then something else than the service answered."""
    try:
        return response.json()
    except requests.JSONDecodeError:
        return None


def _reason(error: requests.RequestException) -> str:
    """The innermost cause in its own words: requests and urllib3 wrap it several times."""
    cause: BaseException = error
    while (inner := cause.__cause__ or cause.__context__) is not None:
        cause = inner
    return getattr(cause, "strerror", None) or type(cause).__name__
