"""Measure the decoders of foreign formats on one core, in gpt-oss-20b's shapes.

    python -m mlx_gptoss_convert.measure.decoders [--experts 32]

prints, for the experts of one layer, (5760, 2880) and (2880, 2880), and for a matrix of
(2880, 4096), which K-quants need: bfloat16 bytes per second of CPU time, and the peak
of memory while one matrix is read. The stored bytes are random, in the page cache. Not
known here: where bytes come from otherwise, and what is done with the values.
"""

import argparse
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mlx_gptoss.checkpoint import read_header
from mlx_gptoss.files import scratch, temporary_folder
from mlx_gptoss_convert.measure.foreign_sources import BLOCK, NESTED, nf4_state
from mlx_gptoss_convert.read.bitsandbytes import decode_bitsandbytes
from mlx_gptoss_convert.read.gguf_blocks import BlockDecoder
from mlx_gptoss_convert.read.gguf_decoders import DECODERS
from mlx_gptoss_convert.read.gguf_types import SUPERBLOCK, TYPES
from mlx_gptoss_convert.read.nvfp4 import decode_compressed, decode_modelopt
from mlx_gptoss_convert.read.source import SourceTensor, TensorReader

Shape = tuple[int, int]  # rows and columns

EXPERT_SHAPES: tuple[Shape, ...] = ((5760, 2880), (2880, 2880))
LONG_SHAPE: Shape = (2880, 4096)
FLOAT_BYTES = 2


@dataclass(frozen=True)
class DecoderResult:
    """One decoder: the bfloat16 bytes of its matrices, CPU seconds, peak in bytes."""

    decoder: str
    nbytes: int
    seconds: float
    peak: int  # of one matrix, the result included
    matrix: int  # bfloat16 bytes of the largest one

    @property
    def rate(self) -> float:
        return self.nbytes / self.seconds


def write_bitsandbytes(path: Path, shape: Shape) -> None:
    """Write a weight in nf4 with quantized scales, of random bytes."""
    draw = np.random.default_rng(1)
    count = shape[0] * shape[1]
    blocks = -(-count // BLOCK)
    tensors = {
        "w": draw.integers(0, 256, (count // 2, 1), np.uint8),
        "w.absmax": draw.integers(0, 256, blocks, np.uint8),
        "w.quant_map": np.linspace(-1, 1, 16, dtype=np.float32),
        "w.nested_absmax": draw.random(-(-blocks // NESTED), np.float32),
        "w.nested_quant_map": np.linspace(-1, 1, 256, dtype=np.float32),
        "w.quant_state.bitsandbytes__nf4": nf4_state(shape, 0.5),
    }
    save_file(tensors, path)


def write_modelopt(path: Path, shape: Shape) -> None:
    """Write a stack of one expert, transposed as modelopt stores it."""
    codes, scales = random_nvfp4(shape)
    tensors = {
        "w": codes.T[None],
        "w_weight_scale": scales.T[None],
        "w_weight_scale_2": np.array([0.25], np.float32),
    }
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, path)


def write_compressed(path: Path, shape: Shape) -> None:
    codes, scales = random_nvfp4(shape)
    total = np.array([4], np.float32)
    tensors = {"weight_packed": codes, "weight_scale": scales}
    tensors = {f"w.{name}": x for name, x in tensors.items()}
    save_file(tensors | {"w.weight_global_scale": total}, path)


def random_nvfp4(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """Draw codes (rows, columns / 2) and scales (rows, columns / 16) without NaN."""
    rows, columns = shape
    draw = np.random.default_rng(2)
    codes = draw.integers(0, 256, (rows, columns // 2), np.uint8)
    return codes, draw.integers(0, 127, (rows, columns // 16), np.uint8)


FILES = {
    "bitsandbytes nf4": (write_bitsandbytes, decode_bitsandbytes, "w"),
    "NVFP4, modelopt": (write_modelopt, decode_modelopt, "w.weight"),
    "NVFP4, compressed-tensors": (write_compressed, decode_compressed, "w.weight"),
}


def readers(
    decoder: str, shapes: tuple[Shape, ...], folder: Path
) -> Iterator[Callable[[], np.ndarray]]:
    """Yield a function for each shape that decodes one matrix."""
    for shape in shapes:
        nbytes = shape[0] * shape[1] * FLOAT_BYTES
        if decoder in DECODERS:
            yield block_reader(DECODERS[decoder], nbytes)
            continue
        write, decode, name = FILES[decoder]
        path = folder / f"{shape[0]}.safetensors"
        write(path, shape)
        stored = SourceTensor.from_checkpoint(name, decode(read_header(path))[name])
        yield file_reader(stored, nbytes)


def block_reader(decoder: BlockDecoder, nbytes: int) -> Callable[[], np.ndarray]:
    size = nbytes // decoder.decoded_bytes * decoder.stored_bytes
    stored = np.random.default_rng(3).integers(0, 256, size, np.uint8)
    return lambda: decoder.read(lambda start, stop: stored[start:stop], 0, nbytes)


def file_reader(stored: SourceTensor, nbytes: int) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        with TensorReader() as reader:
            return reader.read(stored, 0, nbytes)

    return read


def shapes_of(decoder: str) -> tuple[Shape, ...]:
    """Return the shapes that gpt-oss-20b has of a type: K-quants need rows of 256."""
    long = {entry.name for entry in TYPES if entry.block == SUPERBLOCK}
    return (LONG_SHAPE,) if decoder in long else EXPERT_SHAPES


def measure(
    decoder: str, shapes: tuple[Shape, ...], folder: Path, *, experts: int = 1
) -> DecoderResult:
    """Decode one matrix of each shape `experts` times."""
    seconds, peak, nbytes, matrix = 0.0, 0, 0, 0
    with np.errstate(all="ignore"):  # random floats overflow
        for read in readers(decoder, shapes, folder):
            tracemalloc.start()
            matrix = max(matrix, read().nbytes)
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            start = time.process_time()
            nbytes += sum(read().nbytes for _ in range(experts))
            seconds += time.process_time() - start
    return DecoderResult(decoder, nbytes, seconds, peak, matrix)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure decoders on one core.")
    parser.add_argument("--experts", type=int, default=32, help="of the layer")
    given = parser.parse_args()
    with scratch(temporary_folder()) as folder:
        for decoder in (*FILES, *DECODERS):
            found = measure(decoder, shapes_of(decoder), folder, experts=given.experts)
            sys.stdout.write(
                f"| {decoder} | {found.rate / 1e6:.0f} MB/s | "
                f"{found.peak / 1e6:.0f} MB for {found.matrix / 1e6:.0f} MB |\n"
            )


if __name__ == "__main__":
    main()
