"""Wire types of `/v1/moderations`."""

from pydantic import Field

from mlx_gptoss.api.wire import FailFastList, JsonObject, ReplyModel, RequestModel


class ModerationPart(RequestModel):
    """A part of one input; only text can be judged."""

    type: str
    text: str | None = None


class ModerationRequest(RequestModel):
    """The body: a text, several texts, or the parts of one input.

    `policies` are the names of those to judge by, by default all. With `rationale` each
    verdict says why, with `include_reasoning` what the model thought.
    """

    input: str | FailFastList[str] | FailFastList[ModerationPart]
    model: str | None = None
    policies: list[str] | None = None
    rationale: bool | None = None
    include_reasoning: bool | None = None


class ModerationResult(ReplyModel):
    """The verdicts about one input.

    A policy is a category of its name, and each label that it flags is one named
    `POLICY/LABEL` if there are several. `verdicts` has what OpenAI's form has no place
    for: label, rule, the probability of every label.
    """

    flagged: bool
    categories: dict[str, bool]
    category_scores: dict[str, float]
    category_applied_input_types: dict[str, list[str]]
    verdicts: dict[str, JsonObject] = Field(default_factory=dict)


class ModerationReply(ReplyModel):
    id: str
    model: str
    results: list[ModerationResult]
