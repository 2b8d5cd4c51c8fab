"""Write a parsed `tokenizer.json` as the metadata of a GGUF."""

from collections.abc import Mapping
from typing import Any

from mlx_gptoss.errors import ConversionError
from mlx_gptoss_convert.read.gguf import ARRAY, BOOL, STRING, UINT32
from mlx_gptoss_convert.read.gguf_tokenizer import (
    CONTROL,
    MODEL,
    NORMAL,
    PRE_TOKENIZERS,
    PREFIX,
    TOKENIZER_FILE,
    UNUSED,
    USER_DEFINED,
)


def tokenizer_metadata(
    raw: Mapping[str, Any], vocab_size: int, pre: str | None
) -> dict[str, tuple[int, Any]]:
    """Write a parsed `tokenizer.json` as metadata, padded to `vocab_size` tokens.

    `pre` overrides llama.cpp's name of the pre-tokenizer. Raises ConversionError if it
    is neither given nor known, and for a tokenizer that a GGUF of gpt-oss cannot hold.
    """
    model = raw["model"]
    if model.get("type") != "BPE":
        raise ConversionError(
            f"`{TOKENIZER_FILE}` is of type {model.get('type')!r}, a GGUF of gpt-oss "
            "has byte-level BPE: give the model's own with `--tokenizer FILE`"
        )
    tokens = {token_id: token for token, token_id in model["vocab"].items()}
    kinds = dict.fromkeys(tokens, NORMAL)
    for token in raw["added_tokens"]:
        tokens[token["id"]] = token["content"]
        kinds[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    beyond = [token_id for token_id in tokens if token_id >= vocab_size]
    if beyond:
        raise ConversionError(
            f"`{TOKENIZER_FILE}` has the token id {max(beyond)}, the model has "
            f"{vocab_size} rows: give the model's own with `--tokenizer FILE`"
        )
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    ids = range(vocab_size)
    metadata: dict[str, tuple[int, Any]] = {
        "model": (STRING, MODEL),
        "pre": (STRING, pre or pre_tokenizer_name(raw["pre_tokenizer"])),
        "tokens": (ARRAY, [tokens.get(i, f"[PAD{i}]") for i in ids]),
        "token_type": (ARRAY, [kinds.get(i, UNUSED) for i in ids]),
        "merges": (ARRAY, merges),
        "add_bos_token": (BOOL, False),
    }
    return {PREFIX + key: value for key, value in metadata.items() if value[1] != []}


def pre_tokenizer_name(pre_tokenizer: Any) -> str:
    """Return llama.cpp's name of a pre-tokenizer with the same pattern."""
    wanted = without_offsets(pre_tokenizer)
    for name, known in PRE_TOKENIZERS.items():
        if without_offsets(known) == wanted:
            return name
    raise ConversionError(
        f"`{TOKENIZER_FILE}` has a pre-tokenizer without a known name in llama.cpp: "
        "give the nearest with `--tokenizer-pre NAME` (gpt-4o, smollm, gpt-2, ...)"
    )


def without_offsets(pre_tokenizer: Any) -> Any:
    """Drop the settings that do not change how text is split."""
    if not isinstance(pre_tokenizer, Mapping):
        return pre_tokenizer
    if pre_tokenizer.get("type") == "Sequence":
        return [without_offsets(part) for part in pre_tokenizer["pretokenizers"]]
    return {k: v for k, v in pre_tokenizer.items() if k != "trim_offsets"}


def stop_token_metadata(
    eos_token_ids: tuple[int, ...], generation: Mapping[str, Any]
) -> dict[str, tuple[int, Any]]:
    """Write the ids of the tokens that end, begin and pad a text."""
    metadata: dict[str, tuple[int, Any]] = {}
    if eos_token_ids:
        metadata[PREFIX + "eos_token_id"] = (UINT32, eos_token_ids[0])
    for name, key in (("bos", "bos"), ("pad", "padding")):
        token = generation.get(f"{name}_token_id")
        if type(token) is int:
            metadata[f"{PREFIX}{key}_token_id"] = (UINT32, token)
    return metadata
