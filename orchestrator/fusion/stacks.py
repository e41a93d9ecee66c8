"""The stacks that run: who is in each, and what one seat of it holds."""

from dataclasses import dataclass, field

from orchestrator.schema import Placement, Request


@dataclass(slots=True)
class Stack:
    """A fused program. `seat` is what one of its members holds. `changed_at`: when somebody last joined or left [s].
    `widest`: how many members it had at most."""

    stack_id: str
    fusion_key: str
    tenant: str
    seat: Placement
    changed_at: float
    members: set[str] = field(default_factory=set)
    widest: int = 0


class Stacks:
    """Those that run, by id. One that nobody is left in is gone: its program ends by itself."""

    def __init__(self) -> None:
        self._stacks: dict[str, Stack] = {}

    def __len__(self) -> int:
        return len(self._stacks)

    def all(self) -> tuple[Stack, ...]:
        """The oldest first."""
        return tuple(self._stacks.values())

    def of(self, placement: Placement) -> Stack | None:
        """The stack that a placement is a seat in; None if it runs alone."""
        return self._stacks.get(placement.stack_id)

    def join(self, bundle_id: str, placement: Placement, request: Request, at: float) -> None:
        """A bundle has started, in a stack if its placement says so."""
        if not placement.stack_id:
            return
        stack = self._stacks.get(placement.stack_id)
        if stack is None:
            stack = Stack(placement.stack_id, request.fusion_key, request.tenant, placement, at)
            self._stacks[placement.stack_id] = stack
        stack.members.add(bundle_id)
        stack.widest = max(stack.widest, len(stack.members))
        stack.changed_at = at

    def leave(self, bundle_id: str, placement: Placement, at: float) -> None:
        """A bundle has ended."""
        stack = self._stacks.get(placement.stack_id)
        if stack is None:
            return
        stack.members.discard(bundle_id)
        stack.changed_at = at
        if not stack.members:
            del self._stacks[stack.stack_id]
