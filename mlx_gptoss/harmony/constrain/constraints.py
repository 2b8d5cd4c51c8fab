"""Settings of constrained sampling: tool choice, answer format, reasoning budget.

    Constraints()          # the default: legal headers, arguments by their schema
    Constraints(tool_choice="required", parallel_tool_calls=False)
    Constraints(response_format=AnswerFormat.json_schema({"type": "object", ...}))
    Constraints(max_reasoning_tokens=500, stop=("###",))
    Constraints(enforce="headers")                          # free arguments

Plain settings, validated; the engine's guide enforces them.
"""

from dataclasses import dataclass
from typing import Literal

from mlx_gptoss.errors import PromptError
from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat

Enforce = Literal["all", "headers", "off"]
ENFORCE = ("all", "headers", "off")
AUTO, NONE, REQUIRED = "auto", "none", "required"


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Constraints of a turn; the defaults only exclude what is malformed.

    `enforce`: "all" constrains headers and the arguments of calls, "headers" leaves
    arguments free, "off" leaves everything to the model. `tool_choice` is auto, none,
    required, or the name of a tool; a forced call follows a single message of
    reasoning. `parallel_tool_calls=False` allows one call at a time.
    `response_format` constrains the answer (channel `final`) only;
    `max_reasoning_tokens` closes the reasoning of a turn, so that the answer follows.
    `loop_guard` ends text that repeats itself. `stop` are strings that end the answer;
    they are searched on `final` only. `calls_on_analysis` accepts a function call there
    (the model can write one only with `enforce="off"`).
    Raises PromptError for settings that contradict each other.
    """

    enforce: Enforce = "all"
    tool_choice: str = AUTO
    parallel_tool_calls: bool = True
    response_format: AnswerFormat | None = None
    max_reasoning_tokens: int | None = None
    loop_guard: bool = True
    stop: tuple[str, ...] = ()
    calls_on_analysis: bool = True

    @property
    def forces_a_call(self) -> bool:
        """Say whether the turn must end in a tool call."""
        return self.tool_choice not in (AUTO, NONE)

    def __post_init__(self) -> None:
        if self.enforce not in ENFORCE:
            raise PromptError(
                f"`enforce` is {self.enforce!r}: use {', '.join(map(repr, ENFORCE))}"
            )
        if isinstance(self.stop, str) or not all(self.stop):
            raise PromptError(f"`stop` is {self.stop!r}: give a tuple of strings")
        budget = self.max_reasoning_tokens
        if budget is not None and (type(budget) is not int or budget < 0):
            raise PromptError(
                f"`max_reasoning_tokens` is {budget!r}: give a whole number, 0 or more"
            )
        needs = [
            name
            for name, given in (
                ("tool_choice", self.tool_choice != AUTO),
                ("response_format", self.response_format is not None),
                ("max_reasoning_tokens", budget is not None),
            )
            if given
        ]
        if self.enforce == "off" and needs:
            raise PromptError(
                f"`{needs[0]}` cannot be kept with `enforce='off'`: use 'headers'"
            )
