"""Which keys and names a config may have: what nothing reads is refused."""

from collections.abc import Collection, Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, cast, get_type_hints

from orchestrator.config import SCHEMAS, Config, ConfigError
from orchestrator.ordering import ORDERINGS
from orchestrator.packing import PACKINGS
from orchestrator.search import SEARCHES
from orchestrator.sharing.defragmentation import DEFRAGMENTATIONS
from orchestrator.sharing.preemption import PREEMPTIONS
from orchestrator.stopping import STOPPINGS
from orchestrator.tracking import TRACKERS

CHOICES: Mapping[str, Collection[str]] = {
    "ordering": ORDERINGS,
    "packing": PACKINGS,
    "fusion": ("auto", "off"),
    "phases": ("antiphase", "off"),
    "preemption": PREEMPTIONS,
    "defragmentation": DEFRAGMENTATIONS,
    "stopping": STOPPINGS,
    "search": SEARCHES,
    "tracking": TRACKERS,
}


@cache
def hints_of(schema: type) -> Mapping[str, Any]:
    """The types of a schema's fields, by name."""
    return get_type_hints(schema)


def schema_of(group: str, part: Mapping[str, Any]) -> type:
    """The schema of what was chosen, if it has fields of its own, or else that of its group."""
    own = SCHEMAS.get((group, f"base_{part.get('name')}")) if group in CHOICES else None
    return own or cast(type, hints_of(Config)[group])


def check_fields(prefix: str, schema: type, part: Mapping[str, Any]) -> None:
    """Hydra's `+key=value` adds whatever it is told to; a key that nothing reads is refused here."""
    hints = hints_of(schema)
    for name, value in part.items():
        check_known(name, value, hints, prefix)
        if is_dataclass(hints[name]):
            check_fields(f"{prefix}{name}.", hints[name], value)


def check_known(name: str, value: object, hints: Mapping[str, Any], prefix: str) -> None:
    """Refuses a key that `hints` lacks."""
    if name not in hints:
        raise ConfigError(prefix + name, value, f"unknown key; there is: {', '.join(sorted(hints))}")


def check_choice(group: str, known: Collection[str], part: Mapping[str, Any]) -> None:
    """Refuses a part whose name isn't `known`."""
    if part["name"] not in known:
        raise ConfigError(f"{group}.name", part["name"], f"there is: {', '.join(sorted(known))}")
