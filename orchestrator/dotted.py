"""Names of what lies outside this package, as a config writes them: `package.module:name`."""

import importlib
from collections.abc import Callable
from typing import Any

from orchestrator.config import ConfigError


def resolve(dotted: str, field_name: str) -> Callable[..., Any]:
    """The object that `package.module:name` names. Raises ConfigError naming the field."""
    module, _, name = dotted.partition(":")
    try:
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(field_name, dotted, f"{error}; give package.module:name") from error
    return found
