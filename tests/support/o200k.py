"""Rebuild gpt-oss's own vocabulary files from the vocabulary inside oss-harmony.

    python -m tests.support.o200k FOLDER

`tokenizer.json` is what OpenAI published with the checkpoints, byte for byte, and
`o200k_base.tiktoken` what openai-harmony downloads: the hashes say so. Nothing is
downloaded. Needs oss-harmony; about 8 seconds and 500 MB.
"""

import base64
import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint.tokenizer import BYTE_OF_CHARACTER

TOKENS = 199998  # those that are text; the named ones follow
NAMED_END = 200019
SHA256 = {
    "o200k_base.tiktoken": (
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
    ),
    "tokenizer.json": (
        "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"
    ),
}
WORD_HEAD = r"[^\r\n\p{L}\p{N}]?"
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
WORDS = "|".join(  # how text is cut into words
    [
        f"{WORD_HEAD}{UPPER}*{LOWER}+{CONTRACTION}",
        f"{WORD_HEAD}{UPPER}+{LOWER}*{CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
NAMES = {
    199998: "startoftext",
    199999: "endoftext",
    200002: "return",
    200003: "constrain",
    200005: "channel",
    200006: "start",
    200007: "end",
    200008: "message",
    200012: "call",
    200018: "endofprompt",
}
CHARACTER_OF_BYTE = {byte: letter for letter, byte in BYTE_OF_CHARACTER.items()}


def vocabulary_folder(cache: Path) -> Path:
    """Return a folder with both files; one process builds those that are missing."""
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not all((cache / name).is_file() for name in SHA256):
            # Apart: it needs oss-harmony whichever library the tests compare with.
            environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
            root = Path(__file__).resolve().parents[2]
            command = [sys.executable, "-m", "tests.support.o200k", str(cache)]
            subprocess.run(command, check=True, cwd=root, env=environment)
    return cache


def build(folder: Path) -> None:
    """Write both files. Raises ValueError if they are not the published ones."""
    import openai_harmony  # noqa: PLC0415 - the caller may have put another one first

    inner = openai_harmony.load_harmony_encoding("HarmonyGptOss")._inner
    tokens = [bytes(inner.decode_bytes([token])) for token in range(TOKENS)]
    lines = [
        base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)
    ]
    text = json.dumps(tokenizer_json(tokens), ensure_ascii=False, indent=2)
    write(folder / "o200k_base.tiktoken", b"".join(lines))
    write(folder / "tokenizer.json", text.encode())


def write(path: Path, data: bytes) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256[path.name]:
        raise ValueError(f"{path.name} came out with sha256 {found}, not as published")
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.rename(path)


def tokenizer_json(tokens: Sequence[bytes]) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "add_prefix_space": True}
    outer = {**byte_level, "trim_offsets": True, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": WORDS}}
    letters = {**byte_level, "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [named_token(token) for token in range(TOKENS, NAMED_END)],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {**split, "behavior": "Isolated", "invert": False},
                {**letters, "use_regex": False},
            ],
        },
        "post_processor": {**outer, "trim_offsets": False},
        "decoder": outer,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {spelled(token): rank for rank, token in enumerate(tokens)},
            "merges": merges(tokens),
        },
    }


def named_token(token: int) -> dict[str, Any]:
    return {
        "id": token,
        "content": f"<|{NAMES.get(token, f'reserved_{token}')}|>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


def spelled(token: bytes) -> str:
    return "".join(CHARACTER_OF_BYTE[byte] for byte in token)


def merges(tokens: Sequence[bytes]) -> list[list[str]]:
    """Every cut of a token into two tokens, by rank of the whole, then of the parts."""
    rank = {token: place for place, token in enumerate(tokens)}
    found = []
    for token in tokens:
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        pairs = [(rank[a], rank[b]) for a, b in cuts if a in rank and b in rank]
        found += [[spelled(tokens[a]), spelled(tokens[b])] for a, b in sorted(pairs)]
    return found


if __name__ == "__main__":
    build(Path(sys.argv[1]))
