"""Why an answer ended before its time, in the same words wherever it is said.

`cause` names it: a finish reason, or a detail of one (see `steps`). It is shown when it
happens and kept with the last message of the turn. Knows names and words only.
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
CUT_DESCRIPTIONS = {
    "reasoning_budget": "the reasoning was cut at --max-reasoning",
    "analysis_loop": "the reasoning went in circles and was cut",
    "commentary_loop": "a preamble went in circles and was cut",
    "preamble_budget": "the text before calls was cut: it found no end",
    UNENFORCED: "a schema asked too much and was not kept to the end",
    CALL_LOOP: "a call went in circles and was cut: it was not run",
    FINAL_LOOP: "the answer went in circles and was cut",
    TOOL_ROUNDS: "stopped: the model called tools again and again",
}
CUTS_BEFORE_ANSWER = (  # behind the cut
    "reasoning_budget",
    "analysis_loop",
    "commentary_loop",
    "preamble_budget",
    UNENFORCED,
)
REASON_DESCRIPTIONS = {
    LENGTH: "stopped at --max-tokens or the end of the context",
    CANCELLED: "stopped",
}
UNKNOWN_CAUSE = "cut short"
NO_ANSWER = (
    "no answer came: raise --max-tokens or --context, or bound the reasoning with "
    "--max-reasoning or --effort low"
)
EMPTY_ANSWER = "the model ended without an answer"


def incomplete_cause(reason: str | None, details: Sequence[str]) -> str | None:
    """Return what ended an answer before its time; None if it is whole."""
    if reason not in (LENGTH, CANCELLED):
        return None
    last = details[-1] if details else ""
    cut = (
        reason == LENGTH and last in CUT_DESCRIPTIONS and last not in CUTS_BEFORE_ANSWER
    )
    return last if cut else reason


def describe_cause(cause: str) -> str:
    """Say what ended an answer; causes of a later version are said in general."""
    return (
        REASON_DESCRIPTIONS.get(cause) or CUT_DESCRIPTIONS.get(cause) or UNKNOWN_CAUSE
    )
