"""The tokenizer of a GGUF: `tokenizer.json` made of its metadata, and back.

llama.cpp knows how text is cut before merging by a name (`tokenizer.ggml.pre`) where
`tokenizer.json` spells the pattern out; the table below says which is which. Knows
JSON and metadata, no weights.
"""

import json
from collections.abc import Mapping
from typing import Any

from mlx_gptoss.errors import CheckpointError, ConversionError
from mlx_gptoss_convert.read.gguf import ARRAY, BOOL, STRING, UINT32

PREFIX = "tokenizer.ggml."
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5  # kinds of tokens
MODEL = "gpt2"  # llama.cpp's word for byte-level BPE
TEMPLATE = "tokenizer.chat_template"
TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_FILE = "tokenizer.json"
GENERATION_FILE = "generation_config.json"
GIVE_ONE = "give the model's own with `--tokenizer FILE`"
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
    """Make the small files of a checkpoint from a GGUF's metadata, by file name."""
    model, pre = (metadata.get(PREFIX + key) for key in ("model", "pre"))
    if model != MODEL or pre not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"`{where}` has the tokenizer {model!r} with {pre!r}, read are `{MODEL}` "
            f"with {', '.join(f'`{name}`' for name in PRE_TOKENIZERS)}: {GIVE_ONE}"
        )
    tokens = read_list(metadata, "tokens", str, where)
    kinds = read_list(metadata, "token_type", int, where)
    merges = read_list(metadata, "merges", str, where)
    if len(kinds) != len(tokens):
        raise CheckpointError(f"`{where}` has no whole tokenizer: {GIVE_ONE}")
    files = {
        TOKENIZER_FILE: to_json(tokenizer_json(tokens, kinds, merges, pre)),
        GENERATION_FILE: to_json(generation_config(metadata, tokens)),
    }
    if isinstance(metadata.get(TEMPLATE), str):
        files[TEMPLATE_FILE] = metadata[TEMPLATE].encode()
    return files


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
    """Spell a byte-level BPE out as `tokenizers` reads it; unused ids are left out."""
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
    """Say which tokens end a turn: the file's own, and Harmony's where it has them."""
    stops = [metadata.get(PREFIX + "eos_token_id")]
    if STOPS[0] in tokens:
        stops += [tokens.index(name) for name in STOPS if name in tokens]
    ids = [token for token in dict.fromkeys(stops) if token is not None]
    said = {"eos_token_id": ids}
    for name, key in (("bos", "bos"), ("pad", "padding")):
        token = metadata.get(f"{PREFIX}{key}_token_id")
        if token is not None:
            said[f"{name}_token_id"] = token
    return said


def to_json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode()


def tokenizer_metadata(
    raw: Mapping[str, Any], vocab_size: int, pre: str | None
) -> dict[str, tuple[int, Any]]:
    """Say a parsed `tokenizer.json` in metadata, padded to the rows of the embedding.

    `pre` overrides llama.cpp's name of how text is cut. Raises ConversionError where
    the name is not given and not known.
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
    said: dict[str, tuple[int, Any]] = {
        "model": (STRING, MODEL),
        "pre": (STRING, pre or pre_tokenizer_name(raw["pre_tokenizer"])),
        "tokens": (ARRAY, [tokens.get(i, f"[PAD{i}]") for i in ids]),
        "token_type": (ARRAY, [kinds.get(i, UNUSED) for i in ids]),
        "merges": (ARRAY, merges),
        "add_bos_token": (BOOL, False),
    }
    return {PREFIX + key: value for key, value in said.items() if value[1] != []}


def pre_tokenizer_name(pre_tokenizer: Any) -> str:
    """Find llama.cpp's name of a pre-tokenizer by what it does."""
    wanted = without_offsets(pre_tokenizer)
    for name, known in PRE_TOKENIZERS.items():
        if without_offsets(known) == wanted:
            return name
    raise ConversionError(
        f"`{TOKENIZER_FILE}` cuts text in a way that has no known name in llama.cpp: "
        "give the nearest with `--tokenizer-pre NAME` (gpt-4o, smollm, gpt-2, ...)"
    )


def without_offsets(pre_tokenizer: Any) -> Any:
    """Drop what does not change where text is cut."""
    if not isinstance(pre_tokenizer, Mapping):
        return pre_tokenizer
    if pre_tokenizer.get("type") == "Sequence":
        return [without_offsets(part) for part in pre_tokenizer["pretokenizers"]]
    return {k: v for k, v in pre_tokenizer.items() if k != "trim_offsets"}


def stop_token_metadata(
    eos_token_ids: tuple[int, ...], generation: Mapping[str, Any]
) -> dict[str, tuple[int, Any]]:
    """Say which tokens end, begin and pad a text."""
    said: dict[str, tuple[int, Any]] = {}
    if eos_token_ids:
        said[PREFIX + "eos_token_id"] = (UINT32, eos_token_ids[0])
    for name, key in (("bos", "bos"), ("pad", "padding")):
        token = generation.get(f"{name}_token_id")
        if type(token) is int:
            said[f"{PREFIX}{key}_token_id"] = (UINT32, token)
    return said
