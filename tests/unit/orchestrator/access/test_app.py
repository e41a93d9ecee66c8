"""The service over HTTP: who may ask what, and what is answered to what can't be asked."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from orchestrator.access.app import create_app
from orchestrator.access.roles import ScopedOperations
from orchestrator.access.tokens import new_token
from orchestrator.ports import StoreUnavailable
from orchestrator.schema import Holder, Role
from orchestrator.store.database import DatabaseStore
from tests.unit.orchestrator.access.services import access, opened_home, opened_store, queue_study

# What each endpoint answers to those who may not ask for it. The study is another tenant's than the researcher's and
# the lead's. An endpoint without a line here fails a test.
FORBIDDEN: dict[tuple[str, str], dict[str, int]] = {
    ("GET", "/healthz"): {},
    ("POST", "/v1/studies"): {"nobody": 401, "revoked": 401, "researcher": 403, "lead": 403},
    ("GET", "/v1/studies"): {"nobody": 401, "revoked": 401},
    ("GET", "/v1/studies/{study_id}/report"): {"nobody": 401, "revoked": 401, "researcher": 404},
    ("GET", "/v1/status"): {"nobody": 401, "revoked": 401},
    ("GET", "/v1/status/{target}"): {"nobody": 401, "revoked": 401, "researcher": 404},
    ("POST", "/v1/commands"): {"nobody": 401, "revoked": 401, "researcher": 404, "lead": 403},
    ("GET", "/v1/commands/{command_id}"): {"nobody": 401, "revoked": 401, "researcher": 404},
    ("POST", "/v1/trials/{trial_id}/clone"): {"nobody": 401, "revoked": 401, "researcher": 404, "lead": 403},
    ("POST", "/v1/trials/{trial_id}/extend"): {"nobody": 401, "revoked": 401, "researcher": 404, "lead": 403},
    ("GET", "/v1/trials/{trial_id}/explain"): {"nobody": 401, "revoked": 401, "researcher": 404},
    ("GET", "/v1/trials/{trial_id}/log"): {"nobody": 401, "revoked": 401, "researcher": 404},
    ("GET", "/v1/tokens"): {"nobody": 401, "revoked": 401, "researcher": 403, "lead": 403},
    ("POST", "/v1/tokens"): {"nobody": 401, "revoked": 401, "researcher": 403, "lead": 403},
    ("DELETE", "/v1/tokens/{name}"): {"nobody": 401, "revoked": 401, "researcher": 403, "lead": 403},
    ("GET", "/v1/service"): {"nobody": 401, "revoked": 401, "researcher": 403, "lead": 403},
}

BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/v1/studies"): {"overrides": ["study.tenant=alignment"]},
    ("POST", "/v1/commands"): {"kind": "cancel", "target": "theirs"},
    ("POST", "/v1/trials/{trial_id}/clone"): {"overrides": ["optimizer.lr=0.5"]},
    ("POST", "/v1/trials/{trial_id}/extend"): {"max_steps": 5000},
    ("POST", "/v1/tokens"): {"name": "mallory", "role": "admin"},
}


@dataclass
class Served:
    """A service, and how to ask it in somebody's name."""

    app: FastAPI
    client: TestClient
    store: DatabaseStore
    tokens: dict[str, str]
    commands: dict[str, int]

    def ask(self, who: str, method: str, path: str, **content: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens[who]}"} if who in self.tokens else {}
        return self.client.request(method, path, headers={**headers, **content.pop("headers", {})}, **content)


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    home = opened_home(folder)
    store = opened_store(home)
    commands = {"ours": queue_study(store, "ours", "reasoning"), "theirs": queue_study(store, "theirs", "alignment")}
    tokens = {role.value: new_token(store, f"a-{role}", role, "reasoning") for role in Role}
    tokens["revoked"] = new_token(store, "gone", Role.ADMIN, "reasoning")
    store.revoke_token("gone", at=1.0)
    app = create_app(store, home, access(max_body_bytes=10_000))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Served(app, client, store, tokens, commands)
    store.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """For calls that change nothing."""
    with serving(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path) as served:
        yield served


def path_about(endpoint: str, study_id: str, command_id: int) -> str:
    values = {
        "study_id": study_id,
        "target": study_id,
        "trial_id": f"{study_id}-0000",
        "command_id": command_id,
        "name": "a-lead",
    }
    return endpoint.format(**values)


@pytest.mark.parametrize(
    ("method", "endpoint", "who", "status"),
    [(*endpoint, who, status) for endpoint, refused in FORBIDDEN.items() for who, status in refused.items()],
)
def test_a_forbidden_call_is_refused(served: Served, method: str, endpoint: str, who: str, status: int) -> None:
    before = served.store.pending_commands(), served.store.tokens(), served.store.studies()
    path = path_about(endpoint, "theirs", served.commands["theirs"])
    answer = served.ask(who, method, path, json=BODIES.get((method, endpoint)))
    assert answer.status_code == status
    assert answer.json()["error"]
    assert (served.store.pending_commands(), served.store.tokens(), served.store.studies()) == before


def test_every_endpoint_has_its_line(served: Served) -> None:
    offered = {(m.upper(), path) for path, methods in served.app.openapi()["paths"].items() for m in methods}
    assert offered == set(FORBIDDEN)


@pytest.mark.parametrize(
    ("method", "endpoint"), [endpoint for endpoint, refused in FORBIDDEN.items() if refused.get("researcher") == 404]
)
def test_what_is_anothers_is_answered_like_what_is_not_there(served: Served, method: str, endpoint: str) -> None:
    def answer(study_id: str, command_id: int) -> tuple[int, str]:
        body = BODIES.get((method, endpoint), {})
        body = {**body, "target": study_id} if "target" in body else body
        path = path_about(endpoint, study_id, command_id)
        given = served.ask("researcher", method, path, json=body or None)
        return given.status_code, given.text.replace(study_id, "...").replace(str(command_id), "...")

    assert answer("theirs", served.commands["theirs"]) == answer("nothing", 999)


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "bearer orc_x", "Bearer \xe4\xf6", "orc_x"])
def test_without_a_token_the_answer_says_how_to_give_one(served: Served, header: str) -> None:
    answer = served.client.get("/v1/studies", headers={"Authorization": header.encode("latin-1")})
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_the_service_says_that_it_is_there_without_a_token(served: Served) -> None:
    assert served.client.get("/healthz").json() == {"status": "ok"}


def test_tokens_are_made_listed_and_revoked_by_admins(fresh: Served) -> None:
    made = fresh.ask("admin", "POST", "/v1/tokens", json={"name": "ada", "role": "lead", "tenant": "alignment"})
    assert made.status_code == 201
    fresh.tokens["ada"] = made.json()["token"]
    assert fresh.ask("ada", "GET", "/v1/studies").status_code == 200
    listed = fresh.ask("admin", "GET", "/v1/tokens")
    assert {"a-admin", "a-lead", "ada", "gone"} <= {token["name"] for token in listed.json()}
    assert made.json()["token"] not in listed.text
    assert fresh.store.tokens()[0].digest not in listed.text
    assert fresh.ask("admin", "POST", "/v1/tokens", json={"name": "ada", "role": "lead"}).status_code == 422
    assert fresh.ask("admin", "DELETE", "/v1/tokens/ada").status_code == 204
    assert fresh.ask("ada", "GET", "/v1/studies").status_code == 401
    assert fresh.ask("admin", "DELETE", "/v1/tokens/nobody").status_code == 404


def test_the_service_tells_admins_who_leads_without_its_secrets(fresh: Served) -> None:
    config = {"tracking": {"uri": "http://mlflow:hunter2@tracking"}, "packing": {"name": "best_fit"}}
    fresh.store.take_lease(fresh.store.lease(), Holder(host="here", pid=7, started_at=1.0), config, at=2.0)
    answer = fresh.ask("admin", "GET", "/v1/service")
    assert answer.json()["holder"] == {"host": "here", "pid": 7, "started_at": 1.0}
    assert answer.json()["config"]["packing"] == {"name": "best_fit"}
    assert answer.json()["pending_commands"] == 2
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/studies", b""),
        ("POST", "/v1/studies", b"{"),
        ("POST", "/v1/studies", b"\xff\xfe"),
        ("POST", "/v1/studies", b"[" * 5000),
        ("POST", "/v1/studies", b'{"overrides": "seed=1"}'),
        ("POST", "/v1/studies", b'{"overrides": [NaN]}'),
        ("POST", "/v1/studies", b'{"overrides": ["seed=1"], "else": 1}'),
        ("POST", "/v1/studies", b'{"overrides": ["study.name=\\u0000"]}'),
        ("POST", "/v1/studies", b'{"overrides": ["study.name=\\ud800"]}'),
        ("POST", "/v1/studies", b'{"overrides": ["seed=' + b"9" * 1000 + b'"]}'),
        ("POST", "/v1/studies", b'{"overrides": ["model.d_model=null"]}'),
        ("POST", "/v1/studies", b'{"overrides": ["recipe.stages={a: 1}"]}'),
        ("POST", "/v1/studies", b'{"overrides": ["task.options=3"]}'),
        ("POST", "/v1/commands", b'{"kind": "submit", "target": "ours"}'),
        ("POST", "/v1/commands", b'{"kind": "pause", "target": "\\u0000"}'),
        ("POST", "/v1/commands", b'{"kind": "pause", "target": "\\ud800"}'),
        ("POST", "/v1/trials/ours-0000/extend", b'{"max_steps": NaN}'),
        ("POST", "/v1/trials/ours-0000/extend", b'{"max_steps": -1}'),
        ("POST", "/v1/trials/ours-0000/extend", b'{"max_steps": 1e400}'),
        ("POST", "/v1/trials/ours-0000/extend", b'{"max_steps": 1' + b"0" * 5000 + b"}"),
        ("POST", "/v1/trials/ours-0000/extend", b'{"max_steps": 1' + b"0" * 30 + b"}"),
        ("POST", "/v1/trials/ours-0000/clone", b'{"overrides": [], "warm": "maybe"}'),
        ("GET", "/v1/commands/0", b""),
        ("GET", "/v1/commands/99999999999999999999", b""),
        ("GET", "/v1/commands/x", b""),
        ("GET", "/v1/status/%00", b""),
        ("GET", "/v1/status/%ff", b""),
        ("GET", "/v1/status/" + "x" * 1000, b""),
        ("GET", "/v1/status/..%2f..", b""),
        ("GET", "/v1/trials/ours-0000/log?offset=-1", b""),
        ("GET", "/v1/trials/ours-0000/log?offset=99999999999999999999", b""),
        ("GET", "/v1/trials/ours-0000/log?bundle_id=%00", b""),
        ("DELETE", "/v1/tokens/%00", b""),
        ("POST", "/v1/tokens", b'{"name": "a b", "role": "admin"}'),
        ("POST", "/v1/tokens", b'{"name": "ada", "role": "god"}'),
        ("PUT", "/v1/tokens", b"{}"),
        ("GET", "/v2", b""),
    ],
)
def test_what_cant_be_asked_is_answered_with_what_is_wrong(served: Served, method: str, path: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = served.ask("admin", method, path, content=body, headers=headers)
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


def test_a_body_that_is_too_large_is_refused(served: Served) -> None:
    body = b'{"overrides": ["' + b"x" * 10_000 + b'"]}'
    headers = {"Content-Type": "application/json"}
    assert served.ask("admin", "POST", "/v1/studies", content=body, headers=headers).status_code == 413


def test_while_the_store_is_away_the_answer_says_when_to_ask_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnavailable("database is locked")

    monkeypatch.setattr(served.store, "studies", away)
    answer = served.ask("admin", "GET", "/v1/studies")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) > 0
    assert "locked" in answer.json()["error"]


def test_readers_are_answered_while_many_wait_for_their_studies_to_be_composed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, entered = threading.Event(), threading.Semaphore(0)

    def slow(*_: object) -> None:
        entered.release()
        go_on.wait(30)
        raise StoreUnavailable("over")

    monkeypatch.setattr(ScopedOperations, "submit", slow)
    # More than there are threads for answers.
    submitters = [
        threading.Thread(target=served.ask, args=("admin", "POST", "/v1/studies"), kwargs={"json": {"overrides": []}})
        for _ in range(50)
    ]
    for submitter in submitters:
        submitter.start()
    assert entered.acquire(timeout=10)
    before = time.perf_counter()
    assert served.ask("researcher", "GET", "/v1/studies").status_code == 200
    assert time.perf_counter() - before < 5
    assert not entered.acquire(blocking=False)  # one at a time
    go_on.set()
    for submitter in submitters:
        submitter.join(30)


def test_the_document_declares_the_token_and_the_refusals(served: Served) -> None:
    document = served.client.get("/openapi.json").json()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert path == "/healthz" or operation["security"]
            assert path == "/healthz" or {"401", "403", "404", "422", "503"} <= set(operation["responses"])
