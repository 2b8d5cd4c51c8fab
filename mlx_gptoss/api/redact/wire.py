"""Wire types of `/v1/redact`: texts in, masked texts and spans out."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mlx_gptoss.api.aliases import CHAT
from mlx_gptoss.api.wire import FailFastList, ReplyModel, RequestBody

MOST_TEXTS = 2048


class RedactRequest(RequestBody):
    """The body of `/v1/redact`.

    The texts of `input` are one document: a person has one number in all of them.
    `min_confidence`, `favour`, `keep` and `patterns_only` are those of the command.
    """

    api: ClassVar[str] = CHAT

    input: str | Annotated[FailFastList[str], Field(max_length=MOST_TEXTS)]
    model: str | None = None  # there is only one
    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0
    favour: Literal["recall", "precision", "balance"] = "balance"
    keep: FailFastList[str] = Field(default_factory=list)
    patterns_only: bool = False

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class RedactedSpan(ReplyModel):
    """A part of the original text: offsets in code points, and in UTF-8 bytes."""

    start: int
    end: int
    byte_start: int
    byte_end: int
    label: str
    confidence: float
    found_by: list[str]
    placeholder: str


class RedactedText(ReplyModel):
    """One text with placeholders, and what they replaced."""

    text: str
    spans: list[RedactedSpan]


class RedactReply(ReplyModel):
    """The texts of a request, in its order."""

    object: Literal["redaction"] = "redaction"
    model: str | None
    results: list[RedactedText]
