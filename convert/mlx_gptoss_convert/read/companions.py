"""The small files of a converted folder: its config, and what comes along.

Knows `config.json` and file names, no tensors.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers

from mlx_gptoss.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.tokenizer import has_harmony
from mlx_gptoss.checkpoint.tokenizer.settings import turn_off
from mlx_gptoss.format.config import MXFP4, ModelConfig, Quantization

TOKENIZER_FILE = "tokenizer.json"
UNREADABLE = (
    f"`{TOKENIZER_FILE}` cannot be read as a tokenizer: give another with `--tokenizer`"
)
SETTINGS = (  # of a tokenizer, in the order in which the library writes them
    b"truncation",
    b"padding",
    b"added_tokens",
    b"normalizer",
    b"pre_tokenizer",
    b"post_processor",
    b"model",
    b"dropout",
)
# Copied from the source where it has them.
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
ORIGINAL_FOLDER = "original"  # lies inside the folder that has the companions

# Keys of the source that are said anew, or say what is no longer true.
REPLACED = frozenset(
    {
        "_name_or_path",
        "num_experts",
        "quantization",
        "quantization_config",
        "rope_ntk_alpha",
        "rope_ntk_beta",
        "rope_parameters",
        "rope_scaling_factor",
    }
)


@dataclass(frozen=True)
class CompanionFiles:
    """What goes with the weights: texts by file name, files to be copied."""

    texts: Mapping[str, bytes]
    copied: tuple[Path, ...]
    notes: tuple[str, ...] = ()  # on what was changed in them

    def with_texts(self, texts: Mapping[str, bytes]) -> "CompanionFiles":
        """Put `texts` in the place of what has their names."""
        copied = tuple(path for path in self.copied if path.name not in texts)
        return CompanionFiles({**self.texts, **texts}, copied, self.notes)

    def cleaned(self) -> "CompanionFiles":
        """Leave out of `tokenizer.json` what would change a prompt, and note it.

        A file without such settings stays as it is, byte for byte. Where there are
        some the whole is read: 280 MB for the vocabulary of gpt-oss.
        """
        raw = self.read(TOKENIZER_FILE)
        if raw is None or is_clean(raw):
            return self
        try:
            vocabulary = tokenizers.Tokenizer.from_buffer(raw)
        except Exception:  # the library raises bare Exception for any fault
            return replace(self, notes=(UNREADABLE,))
        notes = turn_off(vocabulary, harmony=has_harmony(vocabulary))
        texts = {TOKENIZER_FILE: vocabulary.to_str(pretty=True).encode()}
        return replace(self.with_texts(texts) if notes else self, notes=notes)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of one file, None if there is none."""
        if name in self.texts:
            return self.texts[name]
        path = next((path for path in self.copied if path.name == name), None)
        return None if path is None else path.read_bytes()


def is_clean(raw: bytes) -> bool:
    """Tell from what stands before the words of a vocabulary that nothing is to do.

    False also where the settings may stand elsewhere: then the whole must be read.
    """
    head = raw[: max(raw.find(b'"vocab"'), 0)]
    if not all(b'"%s"' % name in head for name in SETTINGS):
        return False
    hollow = head + b'"vocab": {}, "merges": []}}'
    try:
        vocabulary = tokenizers.Tokenizer.from_buffer(hollow)
    except Exception:  # the library raises bare Exception for any fault
        return False
    return not turn_off(vocabulary, harmony=has_harmony(vocabulary))


def companion_files(folder: Path) -> CompanionFiles:
    """Take the files that lie with a checkpoint."""
    return CompanionFiles({}, companion_paths(folder)).cleaned()


def companion_paths(folder: Path) -> tuple[Path, ...]:
    """List the files that come along, from the checkpoint's folder or the one above."""
    folders = [folder]
    if folder.name == ORIGINAL_FOLDER:
        folders.append(folder.parent)
    found = (
        next((at / name for at in folders if (at / name).is_file()), None)
        for name in COMPANIONS
    )
    return tuple(path for path in found if path is not None)


def config_json(
    checkpoint: Checkpoint, quantization: Mapping[str, Quantization]
) -> str:
    """Write the result's `config.json`, in the spelling every loader knows."""
    config = checkpoint.config
    kept = {
        key: value
        for key, value in checkpoint.raw_config.items()
        if key not in REPLACED
    }
    eos = kept.get("eos_token_id", list(config.eos_token_ids))
    written = {
        **kept,
        **spell(config),
        "eos_token_id": eos,
        "quantization": spell_quantization(quantization),
    }
    return json.dumps(dict(sorted(written.items())), indent=2) + "\n"


def spell(config: ModelConfig) -> dict[str, Any]:
    """Spell the maths and the sizes as Hugging Face's config does."""
    said = asdict(config)
    del said["eos_token_ids"]
    theta = config.rope_theta
    return {
        **said,
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "experts_per_token": config.num_experts_per_tok,
        "hidden_act": "silu",
        "layer_types": list(config.layer_types),
        "model_type": "gpt_oss",
        "rope_theta": int(theta) if theta.is_integer() else theta,
        "tie_word_embeddings": False,
    }


def spell_quantization(quantization: Mapping[str, Quantization]) -> dict[str, Any]:
    """Give a default and every module's own setting, mode included.

    mlx-lm takes a module without a mode for affine, so none is left to the default.
    """
    settings = [setting for setting in quantization.values() if setting != MXFP4]
    default = settings[0] if settings else MXFP4
    modules = {path: asdict(quantization[path]) for path in sorted(quantization)}
    return {**asdict(default), **modules}
