"""Frontier: the policy and its knobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.packing.frontier.scores import Scores
from orchestrator.packing.frontier.serving import Serving
from orchestrator.packing.frontier.worth import worth_of
from orchestrator.schema import Demand, Placement, Request
from orchestrator.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Each request goes where it takes least of what those who come later can use.

    What they can use is learned from the demands that have come, see `worth`, whatever is known beforehand; while none
    has, from those that ask now. Requests are looked at together, up to `look_ahead` of one priority at a time, and who
    wastes least goes first. Of several ways to serve the queue the one is taken that places most device share, see
    `serving`. But the first request has its turn first unless it has only just come. If it doesn't fit then, it gets a
    reservation, and nobody overtakes it onto devices that it will need: see `reservation`. Where all that wait find
    room, nobody has company that is expected to slow anybody down and need not be, see `Serving.best`.

    hold: leave so many requests waiting for better company rather than place all that fit; there are no reservations
    then. It is for studies of packing where nothing ends; on a live cluster it is None or 0. spread: a part of a device
    goes to a free one as long as the rests of those in use are worth less than this part of the free ones. tries: in
    how many more orders a queue of up to `look_ahead` is served where somebody is left out. apart: whether free devices
    are taken to have no company; null is yes, but in simulations where nobody slows anybody down.

    Ties: the way that was tried first, the earlier request, a device in use, the node with the smallest id, the device
    with the smallest index.
    """

    look_ahead: int = 64
    hold: int | None = None
    spread: float = 0.06
    tries: int = 24
    apart: bool | None = None

    def __call__(self, snapshot: Snapshot, requests: Sequence[Request]) -> Sequence[Placement]:
        if not requests or not snapshot.room.nodes:
            return []
        serving = Serving(snapshot, self._scores(snapshot, requests), self.spread, apart=self.apart is not False)
        if self.hold:
            return serving.least_waste(requests, self.look_ahead, self.hold)
        if len(requests) == 1:
            return serving.apart(requests)
        return serving.best(requests, self.look_ahead, self.tries)

    def _scores(self, snapshot: Snapshot, requests: Sequence[Request]) -> Scores:
        """The scores by what is expected now."""
        room, expected = snapshot.room, snapshot.arrivals.seen
        kept: _Kept | None = room.cache.get("frontier")
        if kept is not None and expected and kept.expected is expected:
            return kept.scores
        expected = expected or _asked(requests)
        if kept is not None and kept.expected == expected:
            scores = kept.scores
        else:
            worth = worth_of(room, expected)
            scores = kept.scores if kept is not None else Scores(room, worth)
            scores.learn(worth)
        room.cache["frontier"] = _Kept(expected=expected, scores=scores)
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """The scores by the demands as they were expected."""

    expected: Mapping[Demand, float]
    scores: Scores


def _asked(requests: Sequence[Request]) -> dict[Demand, float]:
    counts: dict[Demand, float] = {}
    for request in requests:
        counts[request.demand] = counts.get(request.demand, 0.0) + 1.0
    return counts
