"""Notes on stderr about how an answer ended."""

from typing import TYPE_CHECKING

from mlx_gptoss.cli.terminal import note
from mlx_gptoss.engine.finish_reasons import (
    CUT_DESCRIPTIONS,
    EMPTY_ANSWER,
    LENGTH,
    NO_ANSWER,
    describe_cause,
    incomplete_cause,
)

if TYPE_CHECKING:
    from mlx_gptoss.engine.outputs import Statistics

STOP, STOP_STRING = "stop", "stop_string"


def note_ending(stats: "Statistics | None", *, answer: str) -> None:
    """Say what cut an answer short, and what to do if there is no answer at all.

    Says nothing if the user stopped it.
    """
    if stats is None:
        return
    reason, details = stats.finish_reason, stats.finish_details
    why = incomplete_cause(reason, details)
    if why == LENGTH:
        note(f"({describe_cause(why)})")
    for detail in details:
        if detail in CUT_DESCRIPTIONS:
            note(f"({CUT_DESCRIPTIONS[detail]})")
    if answer.strip():
        return
    if why == LENGTH:
        note(f"({NO_ANSWER})")
    elif reason == STOP and STOP_STRING not in details:
        note(f"({EMPTY_ANSWER})")
