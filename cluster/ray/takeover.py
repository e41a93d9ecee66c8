"""How leaders of one store follow each other on one Ray cluster: agents are named after their leader's term.

A leader takes no device before the agents of the terms up to its own are dead, their bundles with them. A leader that
a later one has followed takes none at all.
"""

import contextlib
import time
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import get_placement_group, placement_group_table, remove_placement_group

from orchestrator.ports import ClusterUnavailable

_PREFIX = "orchestrator-agent-"
_POLL_S = 0.1
CLOSE_S = 10.0


def namespace_of(owner: str) -> str:
    """The Ray namespace of a store's agents."""
    return f"orchestrator-{owner}"


def agent_name(term: int, node_id: str) -> str:
    """The name of an agent and of the placement group that it sits in."""
    return f"{_PREFIX}{term}-{node_id}"


def take_over(namespace: str, term: int, timeout_s: float) -> None:
    """Kill the agents of terms up to `term` and give their devices back; returns once they are gone.

    Raises ClusterUnavailable if there are agents of a later term, or if one is not gone after `timeout_s`.
    """
    earlier = _agents(namespace, term)
    actors = []
    for name in earlier:
        with contextlib.suppress(ValueError):  # it has just ended
            actors.append(ray.get_actor(name, namespace))
    end_agents(actors, restart=False)
    deadline = time.monotonic() + timeout_s
    while left := set(earlier) & set(_agents(namespace, term)):
        if time.monotonic() >= deadline:
            raise ClusterUnavailable(
                f"an earlier leader's agents {', '.join(sorted(left))} do not end; end their processes on their nodes"
            )
        time.sleep(_POLL_S)
    for name in _groups(term):
        with contextlib.suppress(ValueError):  # of another namespace
            remove_placement_group(get_placement_group(name))


def end_agents(actors: Sequence[Any], *, restart: bool) -> None:
    """End bundles and then the agents, by force those that don't answer; `restart`: Ray shall start them again."""
    with contextlib.suppress(RayError):
        ray.get([actor.close.remote() for actor in actors], timeout=CLOSE_S)
    for actor in actors:
        with contextlib.suppress(RayError, ValueError):
            ray.kill(actor, no_restart=not restart)


def _agents(namespace: str, term: int) -> list[str]:
    """Living agents of terms up to `term`. Raises ClusterUnavailable if there is one of a later term."""
    names = [actor["name"] for actor in _named_actors() if actor["namespace"] == namespace]
    terms = {name: _term(name) for name in names if name.startswith(_PREFIX)}
    later = sorted(name for name, other in terms.items() if other > term)
    if later:
        raise ClusterUnavailable(f"a later leader holds the devices ({', '.join(later)}); this one's term was {term}")
    return sorted(terms)


def _groups(term: int) -> list[str]:
    """Placement groups of agents of terms up to `term`, in any namespace."""
    states = {group["name"]: group["state"] for group in placement_group_table().values()}
    agents = (name for name, state in states.items() if name.startswith(_PREFIX) and state != "REMOVED")
    return sorted(name for name in agents if _term(name) <= term)


def _term(name: str) -> int:
    return int(name.removeprefix(_PREFIX).partition("-")[0])


def _named_actors() -> list[dict[str, Any]]:
    return ray.util.list_named_actors(all_namespaces=True)
