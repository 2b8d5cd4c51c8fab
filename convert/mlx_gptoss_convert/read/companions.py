"""Companion files of a checkpoint: tokenizer, chat template, license and so on.

They are copied to the result unchanged, except that settings of `tokenizer.json` that
would change prompts are turned off. Knows file names, not tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import tokenizers

from mlx_gptoss.checkpoint.tokenizer import Tokenizer, has_harmony
from mlx_gptoss.checkpoint.tokenizer.settings import disable_settings
from mlx_gptoss.format.file_names import TOKENIZER_FILE

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

    def read(self, name: str) -> bytes | None:
        """Return the contents of one file, or None if there is no such file."""
        if name in self.texts:
            return self.texts[name]
        path = next((path for path in self.copied if path.name == name), None)
        return None if path is None else path.read_bytes()


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
