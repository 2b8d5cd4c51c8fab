"""Wire types of `/tokenize` and `/detokenize`, as vLLM and llama.cpp have them."""

from typing import Annotated, ClassVar

from pydantic import Field

from mlx_gptoss.api.aliases import CHAT
from mlx_gptoss.api.completions.wire import TokenId
from mlx_gptoss.api.wire import (
    ContinuationFields,
    FailFastList,
    JsonObject,
    ReplyModel,
    RequestBody,
)


class TokenizeRequest(RequestBody, ContinuationFields):
    """The body of `/tokenize`: one of `messages`, `prompt` and `content`.

    `messages` (vLLM) are those of a chat completion, whose other fields, such as
    `tools` or `reasoning_effort`, are read as well. `prompt` (vLLM) and `content`
    (llama.cpp) are text; with `parse_special`, which `content` implies, names of
    control tokens in it become those tokens. `return_token_strs` (vLLM) adds the text
    of each token; with `with_pieces` (llama.cpp) `tokens` have it.
    """

    api: ClassVar[str] = CHAT

    model: str | None = None
    messages: FailFastList[JsonObject] | None = None
    prompt: str | None = None
    content: str | None = None
    parse_special: bool | None = None
    return_token_strs: bool | None = None
    with_pieces: bool | None = None
    add_special_tokens: bool | None = None
    add_special: bool | None = None


class DetokenizeRequest(RequestBody):
    """The body of `/detokenize`."""

    api: ClassVar[str] = CHAT

    model: str | None = None
    tokens: Annotated[FailFastList[TokenId], Field()]


class TokenPiece(ReplyModel):
    """A token with its text, or with its bytes if that is no whole character."""

    id: int
    piece: str | list[int]


class TokenizeReply(ReplyModel):
    """The tokens of a prompt; `max_model_len` is the most of prompt and answer."""

    count: int
    max_model_len: int | None
    tokens: list[int] | list[TokenPiece]
    token_strs: list[str] | None


class DetokenizeReply(ReplyModel):
    """The text of tokens, under vLLM's name and under llama.cpp's."""

    prompt: str
    content: str
