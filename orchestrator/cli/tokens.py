"""`token create|list|revoke`: who may use the HTTP service. For whoever may open the store itself."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.common import refusals

if TYPE_CHECKING:
    from orchestrator.ports import Store

CREATE_EXAMPLES = """
Examples:\n
\b
  orchestrator token create anna --tenant reasoning
  orchestrator token create ops --role admin
"""
LIST_EXAMPLES = """
Example:\n
\b
  orchestrator token list
"""
REVOKE_EXAMPLES = """
Example:\n
\b
  orchestrator token revoke anna
"""


class RoleName(StrEnum):
    """`schema.Role`, without the import that `--help` would pay for."""

    researcher = "researcher"
    lead = "lead"
    admin = "admin"


Name = Annotated[str, typer.Argument(metavar="NAME", help="Stands beside whatever its owner does.")]


def create(
    name: Name,
    role: Annotated[RoleName, typer.Option(help="What its owner may do.")] = RoleName.researcher,
    tenant: Annotated[str, typer.Option(help="Whose studies and trials are its owner's own.")] = "default",
) -> None:
    """Make a token and print it, alone, on standard output: it is shown this once and kept nowhere."""
    with refusals(), _store() as store:
        from orchestrator.access.tokens import new_token
        from orchestrator.schema import Role

        typer.echo(new_token(store, name, Role(role.value), tenant))
        typer.echo("give it as ORCHESTRATOR_TOKEN; it can't be shown again", err=True)


def list_tokens() -> None:
    """List the tokens by name, without what they are."""
    with refusals(), _store() as store:
        from orchestrator.report.times import when

        now = time.time()
        for token in store.tokens():
            revoked = "" if token.revoked_at is None else f", revoked {when(token.revoked_at, now)}"
            made = f"made {when(token.created_at, now)}"
            typer.echo(f"{token.name}: {token.role.value} of tenant {token.tenant}, {made}{revoked}")


def revoke(name: Name) -> None:
    """Revoke a token: it opens nothing from now on."""
    with refusals(), _store() as store:
        from orchestrator.config import ConfigError

        try:
            store.revoke_token(name, time.time())
        except KeyError:
            raise ConfigError("token.name", name, "no such token; `orchestrator token list` lists them") from None
        typer.echo(f"{name} is revoked")


@contextmanager
def _store() -> Iterator["Store"]:
    from orchestrator.home import Home
    from orchestrator.store.opening import usable_store

    home = Home.from_environment()
    home.prepare()
    with closing(usable_store(home)) as store:
        yield store
