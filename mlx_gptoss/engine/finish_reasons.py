"""Why an answer ended before its time, in the same words wherever it is said.

`cause` names it: a finish reason, or a detail of one (see `steps`). It is shown when it
happens and kept with the last message of the turn. Knows names and words only.
"""

from collections.abc import Sequence

from mlx_gptoss.engine.outputs import CALL_LOOP, CANCELLED, FINAL_LOOP, LENGTH, UNBOUND

TOOL_ROUNDS = "tool_rounds"
CUTS = {
    "reasoning_budget": "the reasoning was cut at --max-reasoning",
    "analysis_loop": "the reasoning went in circles and was cut",
    "commentary_loop": "a preamble went in circles and was cut",
    "preamble_budget": "the text before calls was cut: it found no end",
    UNBOUND: "a schema asked too much and was not kept to the end",
    CALL_LOOP: "a call went in circles and was cut: it was not run",
    FINAL_LOOP: "the answer went in circles and was cut",
    TOOL_ROUNDS: "stopped: the model called tools again and again",
}
GOES_ON = (  # behind the cut
    "reasoning_budget",
    "analysis_loop",
    "commentary_loop",
    "preamble_budget",
    UNBOUND,
)
ENDINGS = {
    LENGTH: "stopped at --max-tokens or the end of the context",
    CANCELLED: "stopped",
}
OTHERWISE = "cut short"
NO_ANSWER = (
    "no answer came: raise --max-tokens or --context, or bound the reasoning with "
    "--max-reasoning or --effort low"
)
NOTHING_SAID = "the model ended without an answer"


def cause(reason: str | None, details: Sequence[str]) -> str | None:
    """Return what ended an answer before its time; None if it is whole."""
    if reason not in (LENGTH, CANCELLED):
        return None
    last = details[-1] if details else ""
    cut = reason == LENGTH and last in CUTS and last not in GOES_ON
    return last if cut else reason


def in_words(cause: str) -> str:
    """Say what ended an answer; causes of a later version are said in general."""
    return ENDINGS.get(cause) or CUTS.get(cause) or OTHERWISE
