"""Causes of incomplete answers, and their description in words.

A cause is a finish reason or a finish detail (see `outputs`). It is shown when it
happens and saved with the last message of the turn.
"""

from collections.abc import Sequence

from mlx_gptoss.engine.outputs import (
    CALL_LOOP,
    CANCELLED,
    FINAL_LOOP,
    LENGTH,
    UNENFORCED,
)

TOOL_ROUNDS = "tool_rounds"
PROGRAM_ENDED = "program_ended"  # it was killed: only a saved answer has this cause
CUT_DESCRIPTIONS = {
    "reasoning_budget": "the reasoning was cut at --max-reasoning",
    "analysis_loop": "the reasoning repeated itself and was cut",
    "commentary_loop": "a preamble repeated itself and was cut",
    "preamble_budget": "the text before the calls was too long and was cut",
    UNENFORCED: "a schema was too costly and was not enforced to the end",
    CALL_LOOP: "a call repeated itself, was cut and was not run",
    FINAL_LOOP: "the answer repeated itself and was cut",
    TOOL_ROUNDS: "stopped: the model kept calling tools",
}
CUTS_BEFORE_ANSWER = (  # the answer follows the cut
    "reasoning_budget",
    "analysis_loop",
    "commentary_loop",
    "preamble_budget",
    UNENFORCED,
)
REASON_DESCRIPTIONS = {
    LENGTH: "stopped at --max-tokens or the end of the context",
    CANCELLED: "stopped",
    PROGRAM_ENDED: "the program ended during this answer; what had arrived is kept",
}
UNKNOWN_CAUSE = "cut short"
NO_ANSWER = (
    "no answer came: raise --max-tokens or --context, or limit the reasoning with "
    "--max-reasoning or --effort low"
)
EMPTY_ANSWER = "the model ended without an answer"


def incomplete_cause(reason: str | None, details: Sequence[str]) -> str | None:
    """Return the cause that ended an answer early; None if the answer is complete."""
    if reason not in (LENGTH, CANCELLED):
        return None
    last = details[-1] if details else ""
    cut = (
        reason == LENGTH and last in CUT_DESCRIPTIONS and last not in CUTS_BEFORE_ANSWER
    )
    return last if cut else reason


def describe_cause(cause: str) -> str:
    """Describe a cause; one that this version does not know gets a general text."""
    return (
        REASON_DESCRIPTIONS.get(cause) or CUT_DESCRIPTIONS.get(cause) or UNKNOWN_CAUSE
    )
