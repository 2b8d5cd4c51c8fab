"""Build `tokenizer.json` from the metadata of a GGUF.

llama.cpp identifies a pre-tokenizer by name (`tokenizer.ggml.pre`), `tokenizer.json` by
its pattern; `PRE_TOKENIZERS` maps names to patterns. Knows JSON and metadata, not
weights.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from mlx_gptoss.errors import CheckpointError
from mlx_gptoss.format.file_names import GENERATION_CONFIG, TOKENIZER_FILE
from mlx_gptoss_convert.read.gguf_names import OLLAMA_ARCHITECTURE

PREFIX = "tokenizer.ggml."
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # token types
MODEL = "gpt2"  # llama.cpp's name of byte-level BPE
TEMPLATE = "tokenizer.chat_template"
TEMPLATE_FILE = "chat_template.jinja"
GIVE_ONE = "give the model's own with `--tokenizer FILE`"
OLLAMA_PRE = "gpt-4o"  # model/models/gptoss/model.go in ollama/ollama
PADDING = re.compile(r"\[PAD\d+\]")  # convert/convert.go there
STOPS = ("<|return|>", "<|endoftext|>", "<|call|>")

O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def sequence(first: dict[str, Any], *, use_regex: bool) -> dict[str, Any]:
    last = byte_level(use_regex=use_regex)
    return {"type": "Sequence", "pretokenizers": [first, last]}


PRE_TOKENIZERS = {
    "gpt-4o": sequence(
        {
            "type": "Split",
            "pattern": {"Regex": O200K},
            "behavior": "Isolated",
            "invert": False,
        },
        use_regex=False,
    ),
    "smollm": sequence({"type": "Digits", "individual_digits": True}, use_regex=True),
    "gpt-2": byte_level(use_regex=True),
}


def read_tokenizer(metadata: Mapping[str, Any], where: str) -> dict[str, bytes]:
    """Build a checkpoint's tokenizer files from metadata, keyed by file name.

    Raises CheckpointError for a tokenizer that is unknown or incomplete.
    """
    model, pre = metadata.get(PREFIX + "model"), pre_tokenizer(metadata)
    if model != MODEL or pre not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"`{where}` has the tokenizer {model!r} with {pre!r}, readable is "
            f"`{MODEL}` with {', '.join(f'`{name}`' for name in PRE_TOKENIZERS)}: "
            f"{GIVE_ONE}"
        )
    tokens = read_list(metadata, "tokens", str, where)
    kinds = read_list(metadata, "token_type", int, where)
    if is_of_ollama(metadata):
        kinds = without_padding(tokens, kinds)
    merges = read_list(metadata, "merges", str, where)
    if len(kinds) != len(tokens):
        raise CheckpointError(f"`{where}` has an incomplete tokenizer: {GIVE_ONE}")
    files = {
        TOKENIZER_FILE: to_json(tokenizer_json(tokens, kinds, merges, pre)),
        GENERATION_CONFIG: to_json(generation_config(metadata, tokens)),
    }
    if isinstance(metadata.get(TEMPLATE), str):
        files[TEMPLATE_FILE] = metadata[TEMPLATE].encode()
    return files


def is_of_ollama(metadata: Mapping[str, Any]) -> bool:
    return metadata.get("general.architecture") == OLLAMA_ARCHITECTURE


def pre_tokenizer(metadata: Mapping[str, Any]) -> Any:
    """Return llama.cpp's name of it; Ollama has one for gpt-oss, whatever is said."""
    return OLLAMA_PRE if is_of_ollama(metadata) else metadata.get(PREFIX + "pre")


def without_padding(tokens: list[str], kinds: list[int]) -> list[int]:
    """Mark as unused what Ollama's converter pads the vocabulary with."""
    pads = zip(tokens, kinds, strict=False)
    return [
        UNUSED if kind == USER_DEFINED and PADDING.fullmatch(token) else kind
        for token, kind in pads
    ] + kinds[len(tokens) :]


def read_list(
    metadata: Mapping[str, Any], key: str, kind: type, where: str
) -> list[Any]:
    found = metadata.get(PREFIX + key)
    if not isinstance(found, list) or any(type(item) is not kind for item in found):
        raise CheckpointError(f"`{where}` has no list `{PREFIX}{key}`: {GIVE_ONE}")
    return found


def tokenizer_json(
    tokens: list[str], kinds: list[int], merges: list[str], pre: str
) -> dict[str, Any]:
    """Write a byte-level BPE for the `tokenizers` library, without unused ids."""
    added = [
        {
            "id": i,
            "content": tokens[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": kind == CONTROL,
        }
        for i, kind in enumerate(kinds)
        if kind in (CONTROL, USER_DEFINED)
    ]
    vocab = {tokens[i]: i for i, kind in enumerate(kinds) if kind == NORMAL}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZERS[pre],
        "post_processor": None,
        "decoder": byte_level(use_regex=True) | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre == "gpt-4o",
            "vocab": vocab,
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }


def generation_config(metadata: Mapping[str, Any], tokens: list[str]) -> dict[str, Any]:
    """List the tokens that end a turn: the metadata's, and Harmony's if present."""
    more = metadata.get(PREFIX + "eos_token_ids")  # Ollama's
    stops = [metadata.get(PREFIX + "eos_token_id")]
    stops += more if isinstance(more, list) else []
    if STOPS[0] in tokens:
        stops += [tokens.index(name) for name in STOPS if name in tokens]
    ids = [token for token in dict.fromkeys(stops) if token is not None]
    config = {"eos_token_id": ids}
    for name, key in (("bos", "bos"), ("pad", "padding")):
        token = metadata.get(f"{PREFIX}{key}_token_id")
        if token is not None:
            config[f"{name}_token_id"] = token
    return config


def to_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()
