"""Read requests for tokens, and write their replies."""

from typing import Any

from mlx_gptoss.api.chat.request import read_request
from mlx_gptoss.api.chat.wire import ChatRequest
from mlx_gptoss.api.errors import bad_request
from mlx_gptoss.api.logprobs import token_text
from mlx_gptoss.api.prompt import MAX_CONTEXTS_COUNTED
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.api.tokens.wire import (
    DetokenizeReply,
    DetokenizeRequest,
    TokenizeReply,
    TokenizeRequest,
    TokenPiece,
)
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.raw_text import encode_text
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.harmony.openai_chat import Restore
from mlx_gptoss.harmony.render.encode import encode_within
from mlx_gptoss.harmony.render.prompt import history_pieces

SOURCES = ("messages", "prompt", "content")
OWN_FIELDS = {"prompt", "content", "parse_special", "return_token_strs", "with_pieces"}
WITHOUT_EFFECT = {"add_special_tokens", "add_special"}  # the vocabulary adds none


def tokenize(
    request: TokenizeRequest,
    runtime: Runtime,
    settings: ServerSettings,
    restore: Restore | None = None,
) -> TokenizeReply:
    """Return the tokens that a request names. Raises ApiError and PromptError.

    Those of `messages` are the prompt of the same chat completion. Raises pydantic's
    ValidationError for messages that a chat completion would not take.
    """
    given = [name for name in SOURCES if getattr(request, name) is not None]
    if len(given) != 1:
        raise bad_request(
            "give one of `messages`, `prompt` and `content`", param="prompt"
        )
    if request.messages is not None:
        ids = chat_ids(request, runtime, settings, restore)
    else:
        text = request.prompt if request.content is None else request.content
        special = request.parse_special
        if special is None:
            special = request.content is not None
        ids = encode_text(
            text or "", runtime, special=special, contexts=MAX_CONTEXTS_COUNTED
        )
    return write_reply(request, ids, runtime)


def chat_ids(
    request: TokenizeRequest,
    runtime: Runtime,
    settings: ServerSettings,
    restore: Restore | None,
) -> list[int]:
    """Return the prompt of a conversation, or its messages alone if that is asked."""
    fields = request.model_dump(exclude_none=True, exclude=OWN_FIELDS | WITHOUT_EFFECT)
    whole = request.add_generation_prompt is not False
    if request.continue_final_message or whole:
        chat = ChatRequest.model_validate(fields)
        return read_request(chat, runtime, settings, restore).render_any_length(runtime)
    fields["add_generation_prompt"] = True  # the last message is not continued
    chat = ChatRequest.model_validate(fields)
    conversation = read_request(chat, runtime, settings, restore).conversation
    pieces, context = history_pieces(conversation, complete=False), runtime.context
    limit = None if context is None else context * MAX_CONTEXTS_COUNTED
    return encode_within(pieces, runtime.tokenizer, context, count_to=limit)


def write_reply(
    request: TokenizeRequest, ids: list[int], runtime: Runtime
) -> TokenizeReply:
    tokenizer = runtime.tokenizer
    tokens: Any = ids
    if request.with_pieces:
        tokens = [TokenPiece(id=one, piece=_piece(tokenizer, one)) for one in ids]
    strings = None
    if request.return_token_strs:
        strings = [token_text(tokenizer, one) for one in ids]
    return TokenizeReply(
        count=len(ids),
        max_model_len=runtime.longest_sequence,
        tokens=tokens,
        token_strs=strings,
    )


def detokenize(request: DetokenizeRequest, runtime: Runtime) -> DetokenizeReply:
    """Return the text of tokens; control tokens have their names.

    Raises ApiError (400) for an id outside the vocabulary.
    """
    size = runtime.tokenizer.vocab_size
    if max(request.tokens, default=0) >= size:
        raise bad_request(
            f"`tokens` has an id outside the vocabulary of {size} tokens",
            param="tokens",
        )
    text = runtime.tokenizer.decode(request.tokens)
    return DetokenizeReply(prompt=text, content=text)


def _piece(tokenizer: Tokenizer, token: int) -> str | list[int]:
    data = tokenizer.token_bytes(token)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
