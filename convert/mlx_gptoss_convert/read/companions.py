"""Companion files of a checkpoint: tokenizer, chat template, license and so on.

They are copied to the result unchanged, except that settings of `tokenizer.json` that
would change prompts are turned off. Knows file names, not tensors.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers

from mlx_gptoss.checkpoint.notices import HARMONY_MARK, TEMPLATES
from mlx_gptoss.checkpoint.tokenizer import Tokenizer, has_harmony
from mlx_gptoss.checkpoint.tokenizer.settings import disable_settings
from mlx_gptoss.format.file_names import TOKENIZER_FILE

TEMPLATE_KEY = "chat_template"  # of JSON files
UNREADABLE = (
    f"`{TOKENIZER_FILE}` cannot be read as a tokenizer: give another with `--tokenizer`"
)
SETTINGS = (  # of a tokenizer, in the order the library writes them
    b"truncation",
    b"padding",
    b"added_tokens",
    b"normalizer",
    b"pre_tokenizer",
    b"post_processor",
    b"model",
    b"dropout",
)
# Copied from the source if present.
COMPANIONS = (
    TOKENIZER_FILE,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "viterbi_calibration.json",  # of a token classifier
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "USAGE_POLICY",
)
ORIGINAL_FOLDER = "original"  # its companions are in the folder above


@dataclass(frozen=True)
class CompanionFiles:
    """Files that accompany the weights: contents by file name, and files to copy."""

    texts: Mapping[str, bytes]
    copied: tuple[Path, ...]
    notes: tuple[str, ...] = ()  # on changes made to them

    def with_texts(self, texts: Mapping[str, bytes]) -> "CompanionFiles":
        """Replace the files that have the names of `texts`."""
        copied = tuple(path for path in self.copied if path.name not in texts)
        return CompanionFiles({**self.texts, **texts}, copied, self.notes)

    def cleaned(self) -> "CompanionFiles":
        """Turn off the settings of `tokenizer.json` that change prompts, with a note.

        A file without such settings is kept byte for byte. Otherwise the whole file is
        parsed, which takes 280 MB of memory for gpt-oss.
        """
        raw = self.read(TOKENIZER_FILE)
        if raw is None or is_clean(raw):
            return self
        try:
            vocabulary = tokenizers.Tokenizer.from_buffer(raw)
        except Exception:  # the library raises bare Exception for any fault
            return replace(self, notes=(UNREADABLE,))
        notes = disable_settings(vocabulary, harmony=has_harmony(vocabulary))
        texts = {TOKENIZER_FILE: vocabulary.to_str(pretty=True).encode()}
        return replace(self.with_texts(texts) if notes else self, notes=notes)

    def for_harmony(self) -> "CompanionFiles":
        """Leave out chat templates of other formats than Harmony, with a note each."""
        files = self
        for name in TEMPLATES:
            raw = self.read(name)
            if raw is None or HARMONY_MARK.encode() in raw:
                continue
            texts: dict[str, bytes] = {}
            if name.endswith(".json"):
                found = read_table(raw)
                if not found.pop(TEMPLATE_KEY, None):
                    continue
                texts[name] = json.dumps(found, indent=2).encode()
            note = (
                f"the chat template in `{name}` is not Harmony's, which the adapter "
                "teaches: left out"
            )
            kept = {x: text for x, text in files.texts.items() if x != name}
            copied = tuple(path for path in files.copied if path.name != name)
            files = CompanionFiles({**kept, **texts}, copied, (*files.notes, note))
        return files

    def read(self, name: str) -> bytes | None:
        """Return the contents of one file, or None if there is no such file."""
        if name in self.texts:
            return self.texts[name]
        path = next((path for path in self.copied if path.name == name), None)
        return None if path is None else path.read_bytes()


def read_table(raw: bytes) -> dict[str, Any]:
    """Parse a JSON object; {} for anything else."""
    try:
        found = json.loads(raw)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def open_tokenizer(files: CompanionFiles, folder: Path) -> Tokenizer:
    """Open the tokenizer among companion files; `folder` is the checkpoint's.

    Raises CheckpointError if there is none, or one that cannot be used.
    """
    raw = files.read(TOKENIZER_FILE)
    if raw is None:
        return Tokenizer.open(folder)  # says what is missing
    return Tokenizer.from_bytes(raw, str(folder / TOKENIZER_FILE))


def is_clean(raw: bytes) -> bool:
    """Whether the part of `tokenizer.json` before the vocabulary needs no change.

    Also False if the settings may follow the vocabulary: then parse the whole file.
    """
    head = raw[: max(raw.find(b'"vocab"'), 0)]
    if not all(b'"%s"' % name in head for name in SETTINGS):
        return False
    without_vocabulary = head + b'"vocab": {}, "merges": []}}'
    try:
        vocabulary = tokenizers.Tokenizer.from_buffer(without_vocabulary)
    except Exception:  # the library raises bare Exception for any fault
        return False
    return not disable_settings(vocabulary, harmony=has_harmony(vocabulary))


def companion_files(folder: Path) -> CompanionFiles:
    """Collect the companion files of a checkpoint's folder."""
    return CompanionFiles({}, companion_paths(folder)).cleaned()


def companion_paths(folder: Path) -> tuple[Path, ...]:
    """List the companion files in the folder, or above it for `original/`."""
    folders = [folder]
    if folder.name == ORIGINAL_FOLDER:
        folders.append(folder.parent)
    found = (
        next((at / name for at in folders if (at / name).is_file()), None)
        for name in COMPANIONS
    )
    return tuple(path for path in found if path is not None)
