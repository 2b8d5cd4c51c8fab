"""Odd checkpoints as other tools write them: a case writes one into a folder.

Small, dense and without `quantization_config` unless said; knows nothing of ours.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import checkpoints, layout_writers

Tensors = dict[str, np.ndarray]
Config = dict[str, Any]
Case = Callable[[Path], object]

CONFIG = checkpoints.hf_config(
    num_hidden_layers=4, num_attention_heads=2, num_key_value_heads=1, hidden_size=64
)
TENSORS = checkpoints.random_tensors(CONFIG, seed=7)
DENSE = layout_writers.dense_experts(TENSORS)
PLAIN = {key: value for key, value in CONFIG.items() if key != "quantization_config"}
FIRST = "model.layers.0."
Q_PROJ = FIRST + "self_attn.q_proj.weight"
EXPERT_NUMBER = re.compile(
    r"(model\.layers\.(\d+)\.mlp\.experts)\.(gate_up|down)_projs\.(\d+)\..*"
)
EXPERT_PARTS = ("gate_up_proj", "down_proj")


def write(folder: Path, tensors: Tensors, **changes: Any) -> None:
    """Write dense tensors; a change of `...` removes a key of the config."""
    config = {k: v for k, v in (PLAIN | changes).items() if v is not ...}
    checkpoints.write_folder(folder, config, tensors)


def renamed(change: Callable[[str], str], **changes: Any) -> Case:
    names = {name: change(name) for name in DENSE}
    return lambda folder: write(
        folder, {names[name]: tensor for name, tensor in DENSE.items()}, **changes
    )


def beginning_with(prefix: str) -> Case:
    return renamed(lambda name: prefix + name)


def with_tensors(*names: str, **changes: Any) -> Case:
    extra = dict.fromkeys(names, np.ones((2, 2), np.float32))
    return lambda folder: write(folder, DENSE | extra, **changes)


def instead(name: str, *others: str, **changes: Any) -> Case:
    kept = {other: tensor for other, tensor in DENSE.items() if other != name}
    extra = dict.fromkeys(others, np.ones((2, 2), np.float32))
    return lambda folder: write(folder, kept | extra, **changes)


def stored_as(name: str, dtype: str, *, blocks: str = "") -> Case:
    """Say another dtype of as many bytes a value in the header; F64 takes more."""

    def case(folder: Path) -> None:
        tensors = {
            other + blocks if layout_writers.is_dense_expert(other) else other: x
            for other, x in DENSE.items()
        }
        width = {"F64": np.float64, "F8_E4M3": np.uint8, "F8_E5M2": np.uint8}[dtype]
        tensors[name] = tensors[name].astype(width)
        write(folder, {k: x for k, x in tensors.items() if k != name})
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        end = len(raw) - 8 - length
        header[name] = {
            "dtype": dtype,
            "shape": list(tensors[name].shape),
            "data_offsets": [end, end + tensors[name].nbytes],
        }
        text = json.dumps(header).encode()
        body = raw[8 + length :] + tensors[name].tobytes()
        path.write_bytes(len(text).to_bytes(8, "little") + text + body)

    return case


def cut_layers(*layers: int, **changes: Any) -> Case:
    cut = tuple(f"model.layers.{n}." for n in layers)
    kept = {name: x for name, x in DENSE.items() if not name.startswith(cut)}
    return lambda folder: write(folder, kept, **changes)


def cut_experts(count: Callable[[int], int], **changes: Any) -> Case:
    tensors = {
        name: x[: count(int(name.split(".")[2]))] if ".mlp." in name else x
        for name, x in DENSE.items()
    }
    return lambda folder: write(folder, tensors, **changes)


def one_expert_a_tensor(between: str) -> Case:
    return lambda folder: write(folder, single_experts(between))


def single_experts(between: str) -> Tensors:
    """Name single experts by `between`, with `{part}` and the number `{e}`."""
    tensors: Tensors = {}
    for name, x in DENSE.items():
        part = next((p for p in EXPERT_PARTS if f"experts.{p}" in name), None)
        if part is None:
            tensors[name] = x
            continue
        kind = "bias" if name.endswith("_bias") else "weight"
        for e, value in enumerate(x):
            path = name.partition("experts.")[0] + "experts."
            tensors[path + between.format(part=part, e=e) + f".{kind}"] = value.T
    return tensors


def mixed_experts(
    *,
    single: Callable[[str], bool],
    stacked: Callable[[str], bool] | None = None,
    count: Callable[[int], int] = lambda layer: CONFIG["num_local_experts"],
) -> Case:
    """Store the experts of some stacks one by one, others in one tensor."""

    def case(folder: Path) -> None:
        kept = stacked or (lambda name: not single(name))
        tensors: Tensors = {}
        for name, x in DENSE.items():
            layer = int(name.split(".")[2]) if ".layers." in name else 0
            if ".mlp.experts." not in name:
                tensors[name] = x[: count(layer)] if ".mlp." in name else x
            elif kept(name):
                tensors[name] = x
        for name, x in single_experts("{part}s.{e}").items():
            found = EXPERT_NUMBER.fullmatch(name)
            if found is None:
                continue
            path, layer, part, expert = found[1], int(found[2]), found[3], int(found[4])
            if single(f"{path}.{part}_proj") and expert < count(layer):
                tensors[name] = x
        write(folder, tensors)

    return case


def affine(change: Callable[[Config], object]) -> Case:
    def case(folder: Path) -> None:
        layout_writers.write_mlx_packed(folder, CONFIG, TENSORS)
        config = json.loads((folder / "config.json").read_text())
        change(config["quantization"])
        (folder / "config.json").write_text(json.dumps(config))

    return case


def mlx_community(folder: Path) -> None:
    """Write what mlx-lm's `dwq` and mlx-optiq leave: the table twice, and reports."""
    affine(lambda table: None)(folder)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = config["quantization"]
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("optiq_metadata.json", "kv_config.json"):
        (folder / name).write_text('{"method": "optiq", "per_layer": []}')


def adapter(
    settings: Mapping[str, Any] | None, weights: str | None, *, config: bool = False
) -> Case:
    def case(folder: Path) -> None:
        if settings is not None:
            (folder / "adapter_config.json").write_text(json.dumps(settings))
        if weights is not None:
            lora = {f"base_model.model.{Q_PROJ}": np.ones((2, 2), np.float32)}
            checkpoints.save_tensors(folder / weights, lora)
        if config:
            (folder / "config.json").write_text(json.dumps(PLAIN))

    return case


def numbered(*shards: str) -> Case:
    def case(folder: Path) -> None:
        write(folder, DENSE)
        (folder / "model.safetensors").unlink()
        for place, shard in enumerate(shards):
            part = dict(list(DENSE.items())[place :: len(shards)])
            checkpoints.save_tensors(folder / f"model-{shard}.safetensors", part)

    return case


def gguf_only(folder: Path) -> None:
    (folder / "gpt-oss.gguf").write_bytes(b"GGUF")


def trainer_output(folder: Path) -> None:
    write(folder / "checkpoint-500", DENSE)


def transposed(folder: Path) -> None:
    name = FIRST + "mlp.experts.gate_up_proj"
    turned = np.ascontiguousarray(DENSE[name].swapaxes(1, 2))
    write(folder, DENSE | {name: turned})


def stacked(rows: int, *names: str) -> Tensors:
    return {
        name: np.concatenate([DENSE[name], np.ones((rows, 64), np.float32)])
        for name in names
    }
