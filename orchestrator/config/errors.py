"""How a config is refused."""

from typing import Any


class ConfigError(Exception):
    """A config that can't run. The message is one or two lines for the person who wrote it."""

    def __init__(self, field_name: str, value: object, remedy: str) -> None:
        super().__init__(f"{field_name}={value}: {remedy}")
        self._parts = field_name, str(value), remedy

    def __reduce__(self) -> tuple[Any, ...]:
        """It travels between processes."""
        return type(self), self._parts
