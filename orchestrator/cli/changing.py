"""Commands that change what is queued or runs: `pause`, `cancel`, `retry`, `clone`, `extend`."""

from typing import Annotated

import typer

from orchestrator.cli.common import Targets, TrialId, carry_out, operations, refusals

PAUSE_EXAMPLES = """
Examples:\n
\b
  orchestrator pause rl_vs_sft-20260101-120000-1a2b
  orchestrator pause rl_vs_sft-20260101-120000-1a2b-0003 rl_vs_sft-20260101-120000-1a2b-0004
"""
CANCEL_EXAMPLES = """
Example:\n
\b
  orchestrator cancel rl_vs_sft-20260101-120000-1a2b-0003
"""
RETRY_EXAMPLES = """
Examples:\n
\b
  orchestrator retry rl_vs_sft-20260101-120000-1a2b
  orchestrator retry rl_vs_sft-20260101-120000-1a2b-0003
"""
CLONE_EXAMPLES = """
Examples:\n
\b
  orchestrator clone rl_vs_sft-20260101-120000-1a2b-0003 optimizer.lr=1e-4
  orchestrator clone rl_vs_sft-20260101-120000-1a2b-0003 optimizer.lr=1e-4 algorithm.max_steps=900 --warm
"""
EXTEND_EXAMPLES = """
Example:\n
\b
  orchestrator extend rl_vs_sft-20260101-120000-1a2b-0003 --max-steps 900
"""


def pause(targets: Targets) -> None:
    """Have studies or trials leave their devices at the next step boundary, with a checkpoint; `resume` goes on."""
    _command("pause", targets)


def cancel(targets: Targets) -> None:
    """Stop studies or trials for good, at the next step boundary; they count as not decided."""
    _command("cancel", targets)


def retry(targets: Targets) -> None:
    """Give failed or cancelled trials another chance."""
    _command("retry", targets)


def clone(
    trial_id: TrialId,
    overrides: Annotated[list[str], typer.Argument(metavar="OVERRIDE", help="What is different, one value each.")],
    warm: Annotated[
        bool, typer.Option("--warm", help="Start from the parent's checkpoint: weights, optimizer, schedule, data.")
    ] = False,
) -> None:
    """Queue a further trial of the same study: the parent's config with overrides."""
    with refusals(), operations() as asked:
        raise typer.Exit(carry_out(asked, [(trial_id, asked.clone(trial_id, overrides, warm=warm))]))


def extend(
    trial_id: TrialId,
    max_steps: Annotated[int, typer.Option("--max-steps", min=1, help="The new length of its last stage, in steps.")],
) -> None:
    """Give a trial a larger budget; it goes on from its last checkpoint."""
    with refusals(), operations() as asked:
        raise typer.Exit(carry_out(asked, [(trial_id, asked.extend(trial_id, max_steps))]))


def _command(name: str, targets: list[str]) -> None:
    with refusals(), operations() as asked:
        from orchestrator.schema import CommandKind

        kind = CommandKind(name)
        raise typer.Exit(carry_out(asked, [(target, asked.command(kind, target)) for target in targets]))
