"""GGUFs as other tools write them, rewritten from one of ours by the package `gguf`.

    rewrite(source, path, retype=types("Q5_1", MATRICES))
    write_for_ollama(source, path)           # architecture `gptoss`, MXFP4 as type 4
    write_for_ollama(source, path, fused=True)   # as its first converter did

Knows the package and Ollama's names and blocks, nothing of ours.
"""

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize

from tests.support.k_quants import ENCODERS

MATRICES = re.compile(
    r"(token_embd|output|blk\.\d+\.attn_(q|k|v|output))\.weight",
)
EXPERTS = re.compile(r"blk\.\d+\.ffn_(gate|up|down)_exps\.weight")
O_PROJ = re.compile(r"blk\.\d+\.attn_output\.weight")
OLLAMA = "gptoss"
OLLAMA_TYPE = 4  # of MXFP4
NOT_SAID_BY_OLLAMA = ("expert_feed_forward_length", "rope.scaling.type", "vocab_size")

Retype = Callable[[str, Kind], Kind]
Tensors = dict[str, tuple[np.ndarray, Kind]]


def types(kind: str, names: re.Pattern[str]) -> Retype:
    """Store the tensors of these names as `kind`, the others as they are."""
    wanted = Kind[kind]
    return lambda name, found: wanted if names.fullmatch(name) else found


def kept(name: str, found: Kind) -> Kind:
    return found


def encode(values: np.ndarray, kind: Kind) -> np.ndarray:
    """Encode float32 by the package, or here where it has no encoder."""
    encoder = ENCODERS.get(kind.name)
    return quantize(values, kind) if encoder is None else encoder(values)


def read_tensors(reader: gguf.GGUFReader) -> Tensors:
    return {x.name: (x.data, x.tensor_type) for x in reader.tensors}


def metadata_of(reader: gguf.GGUFReader) -> dict[str, tuple[Any, ...]]:
    """Return the value, type and type of items of every key."""
    return {
        key: (field.contents(), *field.types, None)[:3]
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.") and key != "general.architecture"
    }


def rewrite(
    source: Path,
    path: Path,
    *,
    retype: Retype = kept,
    rename: Callable[[str], str] = str,
    drop: Collection[str] = (),
    without: Collection[str] = (),
    architecture: str = "gpt-oss",
    metadata: Mapping[str, tuple[Any, ...]] | None = None,
) -> Path:
    """Copy a GGUF with other types, names, tensors or metadata."""
    reader = gguf.GGUFReader(source)
    tensors: Tensors = {}
    for name, (data, found) in read_tensors(reader).items():
        wanted = retype(name, found)
        if name in drop:
            continue
        if wanted != found:
            data = encode(np.ascontiguousarray(dequantize(data, found)), wanted)
        tensors[rename(name)] = (data, wanted)
    pairs = metadata_of(reader) | dict(metadata or {})
    pairs = {key: value for key, value in pairs.items() if key not in without}
    return write_gguf(path, architecture, pairs, tensors)


def write_gguf(
    path: Path,
    architecture: str,
    metadata: Mapping[str, tuple[Any, ...]],
    tensors: Tensors,
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    for key, (value, kind, inner) in metadata.items():
        writer.add_key_value(key, value, kind, inner)
    for name, (data, kind) in tensors.items():
        writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_for_ollama(source: Path, path: Path, *, fused: bool = False) -> Path:
    """Write a GGUF as Ollama's converter does, its first version if `fused`."""
    reader = gguf.GGUFReader(source)
    tensors = {
        ollama_name(name): (ollama_data(data, kind), kind)
        for name, (data, kind) in read_tensors(reader).items()
    }
    if fused:
        tensors = fuse(tensors)
    metadata = {}
    for key, (value, kind, inner) in metadata_of(reader).items():
        own = key.removeprefix("gpt-oss.")
        if own not in NOT_SAID_BY_OLLAMA:
            name = key if own == key else f"{OLLAMA}.{own}"
            metadata[name] = (value, kind, inner)
    metadata["tokenizer.ggml.pre"] = (
        "default",
        gguf.GGUFValueType.STRING,
        None,
    )
    write_gguf(path, OLLAMA, metadata, tensors)
    stack = [name for name, (_, kind) in tensors.items() if kind == Kind.MXFP4]
    path.write_bytes(renumbered(path.read_bytes(), stack, OLLAMA_TYPE))
    return path


def ollama_name(name: str) -> str:
    name = name.replace(".attn_output.", ".attn_out.")
    name = name.replace(".post_attention_norm.", ".ffn_norm.")
    return name.removesuffix(".weight") if ".attn_sinks." in name else name


def ollama_data(data: np.ndarray, kind: Kind) -> np.ndarray:
    """Turn ggml's blocks to Ollama's: neighbours in one byte after the scale."""
    if kind != Kind.MXFP4:
        return data
    blocks = data.reshape(-1, 17)
    nibbles = np.concatenate([blocks[:, 1:] & 15, blocks[:, 1:] >> 4], axis=1)
    packed = nibbles[:, ::2] | (nibbles[:, 1::2] << 4)
    return np.concatenate([blocks[:, :1], packed], axis=1).reshape(data.shape)


def fuse(tensors: Tensors) -> Tensors:
    """Join q, k and v by rows, and alternate the rows of gate and up."""
    found = dict(tensors)
    for name in tensors:
        if ".attn_q." in name:
            parts = [found.pop(name.replace("_q.", f"_{x}.")) for x in "qkv"]
            data = np.concatenate([part for part, _ in parts])
            found[name.replace("attn_q", "attn_qkv")] = (data, parts[0][1])
        if ".ffn_gate_exps." in name:
            gate, kind = found.pop(name)
            up, _ = found.pop(name.replace("gate", "up"))
            data = np.stack([gate, up], axis=2).reshape(len(gate), -1, *gate.shape[2:])
            found[name.replace("gate", "gate_up")] = (data, kind)
    return found


def renumbered(raw: bytes, names: Collection[str], number: int) -> bytes:
    """Give tensors of three axes another type in the header of a file."""
    for name in names:
        text = len(name).to_bytes(8, "little") + name.encode()
        at = raw.index(text) + len(text) + 4 + 3 * 8
        raw = raw[:at] + number.to_bytes(4, "little") + raw[at + 4 :]
    return raw
