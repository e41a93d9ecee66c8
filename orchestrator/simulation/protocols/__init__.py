"""How a trace is played. A protocol says what arrives when, how long stages last, and when it is over."""

from collections.abc import Mapping

from orchestrator.simulation.protocols.arrivals_only import ArrivalsOnly
from orchestrator.simulation.protocols.protocol import Protocol, Scene
from orchestrator.simulation.protocols.replay import Replay

PROTOCOLS: Mapping[str, type[Protocol]] = {"replay": Replay, "arrivals_only": ArrivalsOnly}

__all__ = ["PROTOCOLS", "ArrivalsOnly", "Protocol", "Replay", "Scene"]
