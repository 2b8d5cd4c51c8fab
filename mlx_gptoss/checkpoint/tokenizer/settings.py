"""Disable settings of a `tokenizer.json` that would change a prompt, and name them.

Fine-tuning leaves them behind (`truncation` and `padding` of training batches, a
`post_processor` that adds tokens); OpenAI's file has none. Works on the library's
object, so that running and converting a model follow the same rules. Of Harmony it
knows only whether the vocabulary has its tokens.
"""

import json
from collections.abc import Iterator
from typing import Any, cast

import tokenizers
from tokenizers import AddedToken, pre_tokenizers

TEMPLATE = "TemplateProcessing"
BYTE_LEVEL = "ByteLevel"  # as a post-processor it only moves offsets


def disable_settings(
    vocabulary: tokenizers.Tokenizer, *, harmony: bool
) -> tuple[str, ...]:
    """Disable what would change a prompt; return a notice for each setting.

    With `harmony` the vocabulary is gpt-oss's and takes text unchanged. Another
    vocabulary may have been trained on normalized text, so its normalizer stays.
    """
    notes = [
        *disable_batch_settings(vocabulary),
        *disable_post_processor(vocabulary),
        *disable_dropout(vocabulary),
    ]
    if harmony:
        notes += [
            *disable_normalizer(vocabulary),
            *disable_prefix_space(vocabulary),
            *disable_stripping(vocabulary),
        ]
    return tuple(f"`tokenizer.json` {note}: turned off" for note in notes)


def disable_batch_settings(vocabulary: tokenizers.Tokenizer) -> Iterator[str]:
    """Disable truncation and padding."""
    if vocabulary.truncation is not None:
        length = vocabulary.truncation["max_length"]
        vocabulary.no_truncation()
        yield f"cuts prompts to {length:,} tokens (`truncation`)"
    if vocabulary.padding is not None:
        vocabulary.no_padding()
        yield "pads prompts with a token (`padding`)"


def disable_post_processor(vocabulary: tokenizers.Tokenizer) -> Iterator[str]:
    parts = list_components(read_state(vocabulary.post_processor))
    adding = [part["type"] for part in parts if not adds_nothing(part)]
    if adding:
        vocabulary.post_processor = None  # pyright: ignore[reportAttributeAccessIssue]
        yield f"adds tokens to prompts (`post_processor` {adding[0]})"


def adds_nothing(post_processor: dict[str, Any]) -> bool:
    """Whether it adds no tokens, like the one that transformers 5 writes."""
    if post_processor["type"] == TEMPLATE:
        return [list(piece) for piece in post_processor["single"]] == [["Sequence"]]
    return post_processor["type"] == BYTE_LEVEL


def disable_dropout(vocabulary: tokenizers.Tokenizer) -> Iterator[str]:
    rate = getattr(vocabulary.model, "dropout", None)
    if rate:
        cast(Any, vocabulary.model).dropout = None
        yield f"cuts words at random (`dropout` {rate:.3g})"


def disable_normalizer(vocabulary: tokenizers.Tokenizer) -> Iterator[str]:
    kinds = list_kinds(vocabulary.normalizer)
    if kinds and BYTE_LEVEL not in kinds:
        vocabulary.normalizer = None  # pyright: ignore[reportAttributeAccessIssue]
        yield f"changes text (`normalizer` {', '.join(kinds)})"


def disable_prefix_space(vocabulary: tokenizers.Tokenizer) -> Iterator[str]:
    state = read_state(vocabulary.pre_tokenizer)
    spaced = [part for part in list_components(state) if part.get("add_prefix_space")]
    if not spaced:
        return
    for part in spaced:
        part["add_prefix_space"] = False
    changed = pre_tokenizers.ByteLevel()
    changed.__setstate__(json.dumps(state).encode())
    vocabulary.pre_tokenizer = changed
    yield "puts a space before text (`add_prefix_space`)"


def disable_stripping(vocabulary: tokenizers.Tokenizer) -> Iterator[str]:
    """Keep the white space beside added tokens, as OpenAI's file does."""
    added = vocabulary.get_added_tokens_decoder().values()
    greedy = [token for token in added if token.lstrip or token.rstrip]
    if not greedy:
        return
    for token in greedy:
        kept = AddedToken(
            token.content,
            special=token.special,
            normalized=token.normalized,
            single_word=token.single_word,
        )
        add = vocabulary.add_special_tokens if token.special else vocabulary.add_tokens
        add([kept])
    names = greedy[0].content
    more = f" and {len(greedy) - 1} more" if len(greedy) > 1 else ""
    yield f"drops white space beside `{names}`{more} (`lstrip`, `rstrip`)"


def list_kinds(component: Any) -> list[str]:
    return [part["type"] for part in list_components(read_state(component))]


def read_state(component: Any) -> dict[str, Any]:
    """Return a component as in `tokenizer.json`; {} for None."""
    return {} if component is None else json.loads(component.__getstate__())


def list_components(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a component, or the components of a sequence."""
    if state.get("type") != "Sequence":
        if state:
            yield state
        return
    inner = next(value for value in state.values() if isinstance(value, list))
    for part in inner:
        yield from list_components(part)
