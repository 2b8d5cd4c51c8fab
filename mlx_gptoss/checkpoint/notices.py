"""Notices about the files beside the weights, for `inspect` and for loading.

None of them stops a model from running. Warnings name what may degrade its answers;
loading logs them too.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from mlx_gptoss.checkpoint.adapters.recognize import adapter_files
from mlx_gptoss.checkpoint.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.json_files import read_json_or_empty
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.format.config import MXFP4, parse_quantization, read_token_ids
from mlx_gptoss.format.config.model import read_layer_types
from mlx_gptoss.format.file_names import (
    CONFIG,
    GENERATION_CONFIG,
    ORIGINAL,
    TOKENIZER_CONFIG,
    TOKENIZER_FILE,
)
from mlx_gptoss.format.layout import EXPERTS

TEMPLATES = ("chat_template.jinja", "chat_template.json", TOKENIZER_CONFIG)
HARMONY_MARK = "<|channel|>"  # in every Harmony template, and in no other
# Sampling and stopping suggestions, and the neutral values of each.
NEUTRAL = {
    "temperature": (None, 1.0),
    "top_p": (None, 1.0),
    "top_k": (None, 0),
    "min_p": (None, 0.0),
    "repetition_penalty": (None, 1.0),
    "do_sample": (None, True),
    "no_repeat_ngram_size": (None, 0),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "bad_words_ids": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "stop_strings": (None, []),
    "max_new_tokens": (None,),
    "min_new_tokens": (None, 0),
    "num_beams": (None, 1),
}
IGNORED_SETTINGS = ("add_bos_token", "add_eos_token", "add_prefix_space")


def list_notices(checkpoint: Checkpoint) -> list[str]:
    """Read the small files of a checkpoint; return one line per notice.

    Raises CheckpointError for a `tokenizer.json` that cannot be used.
    """
    folder = find_folder(checkpoint, TOKENIZER_FILE)
    if folder is None:
        missing = f"there is no `{TOKENIZER_FILE}`: only token ids can be used"
        return [*list_file_notices(checkpoint), missing]
    return [
        *list_file_notices(checkpoint),
        *list_tokenizer_notices(checkpoint, Tokenizer.open(folder)),
    ]


def list_file_notices(checkpoint: Checkpoint) -> list[str]:
    """Return the notices that need no tokenizer."""
    found = [
        *list_warnings(checkpoint),
        *checkpoint.notes,
        *list_config_notices(checkpoint),
    ]
    generation = read_optional_json(checkpoint, GENERATION_CONFIG)
    for key, neutral in NEUTRAL.items():
        value = generation.get(key)
        if value not in neutral:
            found.append(
                f"`{GENERATION_CONFIG}` suggests `{key}` = {value!r:.40}: not read, "
                "set it per request"
            )
    settings = read_optional_json(checkpoint, TOKENIZER_CONFIG)
    longest = checkpoint.config.max_position_embeddings
    length = settings.get("model_max_length")
    if isinstance(length, int) and length < longest:
        found.append(
            f"`{TOKENIZER_CONFIG}` has `model_max_length` = {length:,}: not read, the "
            f"model supports {longest:,} tokens"
        )
    found += [
        f"`{TOKENIZER_CONFIG}` has `{key}`: not read, nothing is added to a prompt"
        for key in IGNORED_SETTINGS
        if settings.get(key) is True
    ]
    return found


def list_warnings(
    checkpoint: Checkpoint, *, learned_harmony: bool = False
) -> list[str]:
    """Return the notices about what may degrade answers.

    learned_harmony: whether an adapter that is used with the model was trained on
        Harmony, so that the chat template beside the model does not matter.
    """
    found = [
        f"`{path.name}` beside the model is not applied: use it with `-a FOLDER`"
        for path in adapter_files(checkpoint.folder)
        if path not in checkpoint.files
    ]
    name = None if checkpoint.config.labels else find_other_template(checkpoint)
    if name is not None and not learned_harmony:
        found.append(
            f"the chat template in `{name}` is not Harmony's, the format used for "
            "prompts: if the model was trained on another, its answers suffer"
        )
    return found


def find_other_template(checkpoint: Checkpoint) -> str | None:
    """Return the file with a chat template of another format than Harmony, if any."""
    for name in TEMPLATES:
        folder = find_folder(checkpoint, name)
        if folder is None:
            continue
        if name.endswith(".json"):
            text = str(read_optional_json(checkpoint, name).get("chat_template") or "")
        else:
            text = (folder / name).read_text("utf-8", "replace")
        if text.strip():  # the first one takes precedence
            return None if HARMONY_MARK in text else name
    return None


def list_config_notices(checkpoint: Checkpoint) -> Iterator[str]:
    config, raw = checkpoint.config, checkpoint.raw_config
    scaling = config.rope_scaling
    if scaling is None:
        yield (
            "`config.json` asks for plain rotary positions, without gpt-oss's YaRN: "
            "used as given"
        )
    else:
        reach = int(scaling.factor * scaling.original_max_position_embeddings)
        if config.max_position_embeddings > reach:
            yield (
                f"`config.json` allows {config.max_position_embeddings:,} tokens, its "
                f"rotary scaling reaches {reach:,}"
            )
        initial = raw.get("initial_context_length")
        original = scaling.original_max_position_embeddings
        if initial is not None and initial != original:
            yield (
                f"`config.json` has `initial_context_length` = {initial!r:.40}: not "
                f"read, its rotary settings say {original:,}"
            )
    kinds = read_layer_types({}, config.num_hidden_layers)
    if config.layer_types != kinds and not config.is_classifier:
        yield (
            "`config.json` has `layer_types` that are not gpt-oss's (alternating "
            "sliding and full): used as given"
        )
    tied = raw.get("tie_word_embeddings") is True and not config.is_classifier
    if tied and not checkpoint.is_tied:
        yield (
            "`config.json` has `tie_word_embeddings`, the weights have a head of their "
            "own: that head is used"
        )
    yield from list_stale_tables(checkpoint)


def list_stale_tables(checkpoint: Checkpoint) -> Iterator[str]:
    """Yield settings of quantization for tensors that are not quantized."""
    raw, found = checkpoint.raw_config, checkpoint.structure.quantization
    settings = raw.get("quantization_config")
    method = (
        cast("Mapping[str, Any]", settings).get("quant_method")
        if isinstance(settings, Mapping)
        else None
    )
    if checkpoint.decoded_from is not None:
        return
    if method == MXFP4.mode and not any(EXPERTS in path for path in found):
        yield (
            "`config.json` says that experts are MXFP4, the tensors are not: used as "
            "stored"
        )
    elif not found and (settings or raw.get("quantization")):
        key = "quantization" if raw.get("quantization") else "quantization_config"
        by = f" ({method})" if isinstance(method, str) else ""
        yield (
            f"`config.json` has `{key}`{by}, but no tensor is quantized: used as stored"
        )
    elif found and "quantization" in raw:
        stale = [
            path
            for path, setting in parse_quantization(raw)[1].items()
            if setting is not None
            and path not in found
            and f"{path}.weight" in checkpoint.tensors
        ]
        if stale:
            more = f" (and {len(stale) - 1} more)" if len(stale) > 1 else ""
            yield (
                f"`config.json` has a setting of quantization for `{stale[0]}`{more}, "
                "which is not quantized: used as stored"
            )


def list_tokenizer_notices(
    checkpoint: Checkpoint, tokenizer: Tokenizer
) -> Iterator[str]:
    """Yield disabled settings, and stop tokens and ids that do not suit the model."""
    yield from tokenizer.notices
    rows = checkpoint.config.vocab_size
    generation = read_optional_json(checkpoint, GENERATION_CONFIG)
    said = {
        CONFIG: read_token_ids(checkpoint.raw_config, "eos_token_id"),
        GENERATION_CONFIG: read_token_ids(generation, "eos_token_id"),
    }
    for file, ids in said.items() if not checkpoint.config.is_classifier else ():
        for token in ids:
            name = tokenizer.decode([token])
            if token >= rows:
                yield f"`{file}` ends answers at token {token}, which does not exist"
            elif not tokenizer.may_end_answer(token):
                yield (
                    f"`{file}` ends answers at token {token} (`{name}`), which is text "
                    "or part of a message: ignored"
                )
    if tokenizer.vocab_size > rows:
        yield (
            f"`{TOKENIZER_FILE}` has token ids up to {tokenizer.vocab_size - 1:,}, the "
            f"model up to {rows - 1:,}: text with those beyond is refused"
        )


def find_folder(checkpoint: Checkpoint, name: str) -> Path | None:
    """Find the folder of a small file; for `original/` it may be the parent."""
    folders = [checkpoint.folder]
    if checkpoint.folder.name == ORIGINAL:
        folders.append(checkpoint.folder.parent)
    return next((folder for folder in folders if (folder / name).is_file()), None)


def read_optional_json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """Read an optional file; {} if it is missing or damaged."""
    folder = find_folder(checkpoint, name)
    return {} if folder is None else read_json_or_empty(folder / name)
