"""Write a model as bitsandbytes, modelopt and compressed-tensors do, with them.

A folder gets a checkpoint and `decoded.json`: the sha256 of every weight's bfloat16
bytes, (rows, columns), as the library itself dequantizes it on a CPU. `packed_goldens`
says what must be installed.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tests.support import oracle
from tests.support.checkpoints import E8M0_BIAS, Tensors

PACKAGES = ("torch", "bitsandbytes", "modelopt", "compressed_tensors")
PARTS = ("gate_up_proj", "down_proj")
FP4_MAX, E4M3_MAX = 6, 448
LARGEST_EXPONENT = 8  # of a power of two in E4M3


def missing_packages() -> list[str]:
    return [name for name in PACKAGES if find_spec(name) is None]


@dataclass(frozen=True)
class Source:
    """A model in Hugging Face's layout with MXFP4 experts, as torch's tensors."""

    config: Mapping[str, Any]
    tensors: Tensors

    @property
    def experts(self) -> list[str]:
        """The path of the experts of every layer, up to a projection's name."""
        layers = range(self.config["num_hidden_layers"])
        return [f"model.layers.{n}.mlp.experts." for n in layers]

    @property
    def linear(self) -> list[str]:
        """The names of the weights that are quantized besides the experts."""
        layers = range(self.config["num_hidden_layers"])
        return [
            f"model.layers.{n}.self_attn.{x}_proj.weight"
            for n in layers
            for x in "qkvo"
        ]

    def plain(self) -> dict[str, Any]:
        """Return every tensor but the experts' blocks and scales."""
        return {
            name: bf16(x)
            for name, x in self.tensors.items()
            if not name.endswith(("_blocks", "_scales"))
        }

    def packed(self, stack: str) -> tuple[np.ndarray, np.ndarray]:
        """Return blocks and scales of a stack of experts."""
        return self.tensors[f"{stack}_blocks"], self.tensors[f"{stack}_scales"]

    def values(self, stack: str) -> Any:
        return bf16(oracle.mxfp4_decode(*self.packed(stack)).astype(np.float32))

    def scales(self, stack: str) -> Any:
        """Return the scales of the stack's blocks, each for two groups of 16 values."""
        exponents = self.packed(stack)[1].astype(np.float32) - E8M0_BIAS
        return torch().from_numpy(np.repeat(2**exponents, 2, axis=-1))


@dataclass
class Written:
    """Tensors to save, and what their library decodes them to."""

    tensors: dict[str, Any]
    settings: Mapping[str, object]
    decoded: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path, config: Mapping[str, Any]) -> Path:
        save_file = import_module("safetensors.torch").save_file

        folder.mkdir(exist_ok=True, parents=True)
        whole = {key: x.contiguous() for key, x in self.tensors.items()}
        save_file(whole, folder / "model.safetensors", {"format": "pt"})
        said = {**config, "quantization_config": self.settings}
        (folder / "config.json").write_text(json.dumps(said, indent=1) + "\n")
        sums = {key: digest(x) for key, x in self.decoded.items()}
        (folder / "decoded.json").write_text(json.dumps(sums, indent=1) + "\n")
        return folder


def torch() -> Any:
    return import_module("torch")


def bf16(values: np.ndarray) -> Any:
    return torch().from_numpy(np.ascontiguousarray(values)).to(torch().bfloat16)


def digest(values: Any) -> str:
    positive = values.to(torch().bfloat16) + 0  # modelopt has no negative zero
    raw = positive.contiguous().view(torch().uint8).numpy()
    return hashlib.sha256(raw.tobytes()).hexdigest()


def bitsandbytes(source: Source, kind: str) -> Written:
    """Write what Unsloth's `-bnb-4bit` checkpoints have: linear layers for experts."""
    bnb = import_module("bitsandbytes.functional")

    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    made = Written(source.plain(), settings)
    tensors = made.tensors
    weights = {name: tensors.pop(name) for name in source.linear}
    for experts in source.experts:
        for part in PARTS:
            biases = tensors.pop(f"{experts}{part}_bias")
            for e, values in enumerate(source.values(experts + part)):
                weights[f"{experts}{part}s.{e}.weight"] = values
                tensors[f"{experts}{part}s.{e}.bias"] = biases[e]
    for name in [name for name in tensors if ".mlp.router." in name]:
        tensors[name.replace("router.", "router.linear.")] = tensors.pop(name)
    for number, (name, values) in enumerate(weights.items()):
        packed, state = bnb.quantize_4bit(
            values, quant_type=kind, compress_statistics=number % 3 != 0
        )
        tensors[name] = packed
        for key, part in state.as_dict(packed=True).items():
            tensors[f"{name}.{key}"] = part
        made.decoded[name] = bnb.dequantize_4bit(packed, state)
    return made


def modelopt(source: Source, *, attention: bool) -> Written:
    """Write stacks of experts cast from MXFP4; with `attention`, that calibrated."""
    cast = import_module("modelopt.torch.export.shard_cast_utils")
    quantized = import_module("modelopt.torch.quantization.qtensor").NVFP4QTensor

    made = Written(source.plain(), {"quant_method": "modelopt"})
    tensors = made.tensors
    for name in source.linear if attention else ():
        values = tensors[name]
        found, scales, total = quantized.quantize(values, 16, try_tensorrt=False)
        tensors[name] = found._quantized_data
        tensors[f"{name}_scale"], tensors[f"{name}_scale_2"] = scales, total
        tensors[name.replace("weight", "input_scale")] = torch().tensor(1.0)
        made.decoded[name] = found.dequantize(
            scale=scales, double_scale=total, block_sizes={-1: 16}
        )
    for stack in (experts + part for experts in source.experts for part in PARTS):
        blocks, found = map(torch().from_numpy, source.packed(stack))
        flat = blocks.reshape(*found.shape[:-1], -1)
        packed, scales, total, count, exact = cast.quantize_mxfp4_to_nvfp4_lossless(
            flat, found, cast.mxfp4_kmax(found), "cpu"
        )
        assert count == exact, f"{count=} {exact=}"
        # As `maybe_transpose_expert_weight_dimensions` exports them.
        tensors[stack] = packed.transpose(-2, -1)
        tensors[f"{stack}_weight_scale"] = scales.transpose(-2, -1)
        tensors[f"{stack}_weight_scale_2"] = total
        made.decoded[stack] = source.values(stack)
    return made


def compressed(source: Source, *, attention: bool, cast: bool) -> Written:
    """Write linear layers for experts, as llm-compressor has them.

    With `cast`, groups keep the scale of their MXFP4 block; without, each has a power
    of two of its own.
    """
    path = "compressed_tensors.compressors.nvfp4.base"
    compressor = import_module(path).NVFP4PackedCompressor
    quantization = import_module("compressed_tensors.quantization")
    arguments = quantization.QuantizationArgs(
        num_bits=4, type="float", strategy="tensor_group", group_size=16, symmetric=True
    )
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=arguments)

    settings = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}
    made = Written(source.plain(), settings)
    weights = {
        name: (values := made.tensors.pop(name), *calibrated(values))
        for name in (source.linear if attention else ())
    }
    for experts in source.experts:
        for name, bias, values, scales in single_experts(source, made.tensors, experts):
            made.tensors[f"{name}.bias"] = bias
            found = kept_scales(scales) if cast else powers_of_two(values)
            weights[f"{name}.weight"] = (values, *found)
    for name, (values, scales, total) in weights.items():
        rounded = (scales * total).to(torch().float8_e4m3fn).float()
        state = {
            "weight": values,
            "weight_scale": rounded,
            "weight_global_scale": total,
        }
        packed = compressor.compress(state, scheme)
        for key, part in packed.items():
            made.tensors[name.replace("weight", key)] = part
        made.decoded[name] = compressor.decompress(packed, scheme)["weight"]
    return made


def single_experts(
    source: Source, tensors: dict[str, Any], experts: str
) -> Iterator[tuple[str, Any, Any, Any]]:
    """Yield name, bias, values and block scales of each projection of each expert."""
    for part in PARTS:
        biases = tensors.pop(f"{experts}{part}_bias")
        values, scales = source.values(experts + part), source.scales(experts + part)
        halves = {"down_proj": slice(None)}
        if part != "down_proj":
            halves = {"gate_proj": slice(0, None, 2), "up_proj": slice(1, None, 2)}
        for e in range(len(values)):
            for name, rows in halves.items():
                yield (
                    f"{experts}experts.{e}.{name}",
                    biases[e][rows],
                    values[e][rows],
                    scales[e][rows],
                )


def group_maxima(values: Any) -> Any:
    return values.float().reshape(len(values), -1, 16).abs().amax(-1)


def calibrated(values: Any) -> tuple[Any, Any]:
    """Return the scales of groups, and the global one, that use the whole range."""
    total = (E4M3_MAX * FP4_MAX / values.abs().max().float()).reshape(1)
    return group_maxima(values) / FP4_MAX, total


def powers_of_two(values: Any) -> tuple[Any, Any]:
    """Return the largest powers of two as scales of groups, and a global one."""
    total = 2 ** torch().floor(torch().log2(calibrated(values)[1]))
    smallest = group_maxima(values).clamp(min=2**-60)
    return 2 ** torch().floor(torch().log2(smallest) - 2), total


def kept_scales(scales: Any) -> tuple[Any, Any]:
    """Return scales of groups as they are, and the global one that E4M3 needs."""
    return scales, (2.0**LARGEST_EXPONENT / scales.max()).reshape(1)


FORMS: dict[str, Callable[[Source], Written]] = {
    "bitsandbytes": partial(bitsandbytes, kind="nf4"),
    "bitsandbytes_fp4": partial(bitsandbytes, kind="fp4"),
    "modelopt": partial(modelopt, attention=True),
    "compressed": partial(compressed, attention=True, cast=False),
}
# Only experts are quantized, which were MXFP4, so that nothing is lost.
CASTS: dict[str, Callable[[Source], Written]] = {
    "modelopt_cast": partial(modelopt, attention=False),
    "compressed_cast": partial(compressed, attention=False, cast=True),
}
