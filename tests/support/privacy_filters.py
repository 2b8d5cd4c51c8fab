"""Random tiny token classifiers as transformers saves them, for tests.

    folder = write_filter(tmp_path, seed=0)                  # of odd sizes, float32
    folder = write_word_filter(tmp_path, {"Alice": "private_person"})

    python -m tests.support.privacy_filters FOLDER 4    # of the real size but 4 layers

The second knows words: attention and experts add nothing, and the head reads each
token's label from its embedding. Knows numpy, nothing of ours but the vocabulary.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from safetensors.numpy import save_file
from tokenizers import decoders, models, pre_tokenizers, trainers

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.format.config.labels import PUBLISHED

Tensors = dict[str, np.ndarray]
DEMO = Path(__file__).parents[2] / "mlx_gptoss" / "demo"
LABELS = list(PUBLISHED)


def filter_config(**overrides: Any) -> dict[str, Any]:
    """Return a `config.json` as transformers 5 writes it, with small odd sizes."""
    labels = overrides.pop("labels", LABELS)
    config: dict[str, Any] = {
        "architectures": ["OpenAIPrivacyFilterForTokenClassification"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "classifier_dropout": 0.0,
        "dtype": "float32",
        "eos_token_id": 5,
        "head_dim": 12,
        "hidden_size": 40,
        "id2label": {str(n): label for n, label in enumerate(labels)},
        "initializer_range": 0.02,
        "intermediate_size": 22,
        "label2id": {label: n for n, label in enumerate(labels)},
        "max_position_embeddings": 131072,
        "model_type": "openai_privacy_filter",
        "num_attention_heads": 6,
        "num_experts_per_tok": 3,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "num_local_experts": 5,
        "output_router_logits": False,
        "pad_token_id": 5,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_theta": 150000.0,
            "rope_type": "yarn",
            "truncate": False,
        },
        "router_aux_loss_coef": 0.9,
        "sliding_window": 7,
        "tie_word_embeddings": False,
        "transformers_version": "5.24.0",
        "use_cache": True,
        "vocab_size": 301,
    }
    return config | overrides


def filter_tensors(config: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Draw every tensor of `config`, float32, by transformers' names and shapes."""
    draw = np.random.default_rng(seed)
    M, F, E = (
        config[key] for key in ("hidden_size", "intermediate_size", "num_local_experts")
    )
    H, Hk, D = (
        config[key]
        for key in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )

    def normal(*shape: int, std: float) -> np.ndarray:
        return (std * draw.standard_normal(shape)).astype(np.float32)

    def linear(name: str, rows: int, columns: int, gain: float) -> Tensors:
        return {
            f"{name}.weight": normal(rows, columns, std=gain / columns**0.5),
            f"{name}.bias": normal(rows, std=0.1),
        }

    tensors: Tensors = {
        "model.embed_tokens.weight": normal(config["vocab_size"], M, std=1.0),
        "model.norm.weight": 1 + normal(M, std=0.1),
        **linear("score", len(config["id2label"]), M, 2.0),
    }
    for n in range(config["num_hidden_layers"]):
        layer = f"model.layers.{n}."
        tensors[layer + "input_layernorm.weight"] = 1 + normal(M, std=0.1)
        tensors[layer + "post_attention_layernorm.weight"] = 1 + normal(M, std=0.1)
        for name, rows in (("q", H * D), ("k", Hk * D), ("v", Hk * D)):
            tensors |= linear(f"{layer}self_attn.{name}_proj", rows, M, 1.3)
        tensors |= linear(layer + "self_attn.o_proj", M, H * D, 1.5)
        tensors[layer + "self_attn.sinks"] = normal(H, std=1.0)
        tensors |= linear(layer + "mlp.router", E, M, 1.5)
        experts = layer + "mlp.experts."
        tensors |= {
            experts + "gate_up_proj": normal(E, M, 2 * F, std=1.2 / M**0.5),
            experts + "gate_up_proj_bias": normal(E, 2 * F, std=0.1),
            experts + "down_proj": normal(E, F, M, std=1.2 / F**0.5),
            experts + "down_proj_bias": normal(E, M, std=0.1),
        }
    return tensors


def write_filter(
    folder: str | Path, *, seed: int = 0, tokenizer: bool = False, **overrides: Any
) -> Path:
    """Write `filter_config(**overrides)` and its tensors; return the folder."""
    if tokenizer:
        overrides.setdefault("vocab_size", Tokenizer.open(DEMO).vocab_size)
    config = filter_config(**overrides)
    return write_tensors(
        folder, config, filter_tensors(config, seed), tokenizer=tokenizer
    )


def write_tensors(
    folder: str | Path, config: Mapping[str, Any], tensors: Tensors, *, tokenizer: bool
) -> Path:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer:
        text = (DEMO / "tokenizer.json").read_bytes()
        (folder / "tokenizer.json").write_bytes(text)
    return folder


def write_word_filter(folder: str | Path, words: Mapping[str, str]) -> Path:
    """Write a classifier that labels the tokens of some words, and no others.

    A word is alone in its text, or behind a space. Its tokens are B, I, ..., E, or S.
    """
    vocabulary = word_vocabulary(words)
    tokenizer = Tokenizer.from_bytes(vocabulary.encode(), "words")
    M = 8 * -(-len(LABELS) // 8)
    config = filter_config(
        vocab_size=tokenizer.vocab_size, hidden_size=M, num_hidden_layers=2
    )
    tensors = filter_tensors(config)
    for name, tensor in tensors.items():
        if "o_proj" in name or "down_proj" in name or name.startswith("score"):
            tensor[:] = 0
        if "layernorm" in name or name.endswith("model.norm.weight"):
            tensor[:] = 1
    table = np.zeros((tokenizer.vocab_size, M), np.float32)
    table[:, 0] = 1  # O
    for word, category in words.items():
        for ids in (tokenizer.encode(word), tokenizer.encode(" " + word)):
            tags = "S" if len(ids) == 1 else "B" + "I" * (len(ids) - 2) + "E"
            for token, tag in zip(ids, tags, strict=True):
                table[token] = 0
                table[token, LABELS.index(f"{tag}-{category}")] = 1
    tensors["model.embed_tokens.weight"] = table
    np.fill_diagonal(tensors["score.weight"], 2.0)
    written = write_tensors(folder, config, tensors, tokenizer=False)
    (written / "tokenizer.json").write_text(vocabulary)
    return written


def word_vocabulary(words: Iterable[str]) -> str:
    """Return a byte-level `tokenizer.json` of bytes, and of some words as one token."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for word in words for text in (word, f" {word}")]
    made.train_from_iterator(texts * 4, trainer)
    return made.to_str()


REAL_SIZES: dict[str, Any] = {
    "head_dim": 64,
    "hidden_size": 640,
    "intermediate_size": 640,
    "num_attention_heads": 14,
    "num_experts_per_tok": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 128,
    "sliding_window": 128,
    "vocab_size": 8192,  # of 200,064: rows of the embedding are only looked up
}

if __name__ == "__main__":
    layers = int(sys.argv[2])
    write_filter(sys.argv[1], tokenizer=True, num_hidden_layers=layers, **REAL_SIZES)
