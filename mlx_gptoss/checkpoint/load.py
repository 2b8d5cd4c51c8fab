"""Load the weights of an opened checkpoint into a model.

MLX allocates every array once in its final dtype, and a few threads read the file
directly into it. Nothing is repacked or dequantized. On a GPU, parameters with the same
bytes in the file are mapped instead (see `mapping`).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint.checkpoint import Checkpoint
from mlx_gptoss.checkpoint.mapping import (
    PageSharing,
    can_map,
    choose_page_sharing,
    map_parameter,
    start_read_ahead,
)
from mlx_gptoss.checkpoint.parameters import BYTE, FLOAT, WORD, Parameter
from mlx_gptoss.checkpoint.tensor_reads import (
    TensorChunk,
    fill,
    fill_transposed,
    open_files,
    split_into_chunks,
)
from mlx_gptoss.errors import CheckpointError, MemoryBudgetError
from mlx_gptoss.memory import device_budget, format_bytes
from mlx_gptoss.model.buffers import empty
from mlx_gptoss.model.gpt_oss import GptOss
from mlx_gptoss.model.residual import fit_residual, group_norms
from mlx_gptoss.model.token_classifier import TokenClassifier

READ_THREADS = 8
LEAST_SCALE = 2.0**-17  # of float16 with the 8 digits of bfloat16
NO_SCALE = 2.0**-22  # 255 steps of it are 6e-5
Progress = Callable[[int, int], None]  # bytes read, total bytes

COMPUTE_DTYPES = {mx.float32: 4, mx.bfloat16: 2, mx.float16: 2}  # and bytes of each


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype,
    progress: Progress | None = None,
    share: PageSharing | None = None,
) -> GptOss:
    """Build the model with evaluated weights, floats cast to `dtype`.

    `dtype` is mx.float32, mx.bfloat16 or mx.float16, in which the residual stream is
    scaled so that it cannot overflow. `progress` is called with (bytes read, total
    bytes). Peak memory: the model, plus a few MiB per thread for casts.
    """
    model = GptOss(checkpoint.config, checkpoint.structure)
    weights = load_parameters(
        checkpoint, dtype=dtype, progress=progress, share=share or choose_page_sharing()
    )
    model.load_weights(list(weights.items()), strict=True)
    if dtype == mx.float16:
        fit_residual(model.model, checkpoint.config)
    return model


def load_classifier(
    checkpoint: Checkpoint, *, dtype: mx.Dtype, progress: Progress | None = None
) -> TokenClassifier:
    """Build a token classifier; see `load_model`."""
    model = TokenClassifier(checkpoint.config, checkpoint.structure)
    share = choose_page_sharing()
    weights = load_parameters(checkpoint, dtype=dtype, progress=progress, share=share)
    model.load_weights(list(weights.items()), strict=True)
    if dtype == mx.float16:
        fit_residual(model.model, checkpoint.config)
    return model


def load_parameters(
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype,
    progress: Progress | None = None,
    select: Callable[[Parameter], bool] | None = None,
    share: PageSharing | None = None,
) -> dict[str, mx.array]:
    """Load the parameters that `select` accepts, by their names in memory.

    With `share`, parameters with the same bytes in their file are mapped, and read in
    the background. Raises MemoryBudgetError before allocating more than the device
    holds, and CheckpointError if a file changed since it was opened.
    """
    if dtype not in COMPUTE_DTYPES:
        name = str(dtype).rpartition(".")[2]
        raise CheckpointError(
            f"cannot load as {name}: use float32, bfloat16 or float16"
        )
    wanted = [x for x in checkpoint.parameters if select is None or select(x)]
    first = {x.sources: x for x in reversed(wanted)}  # a tied head is the embedding
    distinct = [x for x in wanted if first[x.sources] is x]
    check_room(sum(x.nbytes(COMPUTE_DTYPES[dtype]) for x in distinct))
    adopted = {} if share is None else map_parameters(distinct, dtype, share)
    rest = [x for x in distinct if x.name not in adopted]
    with open_files(checkpoint.files) as files:
        read = read_parameters(rest, dtype, files, progress or (lambda *_: None))
    found = adopted | read
    if dtype == mx.float16:
        check_scales(read)
    return {x.name: found[first[x.sources].name] for x in wanted}


def map_parameters(
    wanted: list[Parameter], dtype: mx.Dtype, share: PageSharing
) -> dict[str, mx.array]:
    """Map the parameters that can be mapped, and start reading them ahead."""
    found = {
        x.name: map_parameter(x, dtype, share) for x in wanted if can_map(x, dtype)
    }
    adopted = {name: array for name, array in found.items() if array is not None}
    sources = [x.sources[0] for x in wanted if x.name in adopted]
    if sources:
        start_read_ahead(sources)
    return adopted


def read_parameters(
    wanted: list[Parameter], dtype: mx.Dtype, files: dict[Path, int], report: Progress
) -> dict[str, mx.array]:
    """Allocate parameters one by one while threads fill the earlier ones."""
    total = sum(source.nbytes for x in wanted for source in x.sources)
    done = 0
    with ThreadPoolExecutor(READ_THREADS) as pool:
        try:
            begun = [(x, *start_reading(x, dtype, files, pool)) for x in wanted]
            for _, _, jobs in begun:
                for job in jobs:
                    done += job.result()
                    report(done, total)
        except BaseException:
            pool.shutdown(
                cancel_futures=True
            )  # an interrupt does not wait for pending reads
            raise
    return {x.name: set_dtype(array, x, dtype) for x, array, _ in begun}


def stored_down_norms(checkpoint: Checkpoint, layer: int) -> mx.array:
    """Bound the norms of the rows of a layer's quantized `down_proj`: (E, M).

    Reads its scales from the files, for experts that are not all in memory.
    """
    path = f"model.layers.{layer}.mlp.experts.down_proj"
    wanted = {f"{path}.scales", f"{path}.biases"}
    found = load_parameters(
        checkpoint, dtype=mx.float32, select=lambda x: x.name in wanted
    )
    check_scales(found)
    scales, biases = found[f"{path}.scales"], found.get(f"{path}.biases")
    return group_norms(checkpoint.structure.quantization[path], scales, biases)


def check_scales(found: dict[str, mx.array]) -> None:
    """Raise CheckpointError for affine scales that float16 holds worse than bfloat16.

    Groups whose values are all near zero do not matter.
    """
    for name, array in found.items():
        if name.endswith(".scales") and array.dtype != mx.uint8:
            sizes = mx.abs(array.astype(mx.float32))
            if mx.any((sizes < LEAST_SCALE) & (sizes > NO_SCALE)).item():
                raise CheckpointError(
                    f"`{name}` has scales below {LEAST_SCALE:.1e}, which float16 holds "
                    "with fewer digits than bfloat16: use bfloat16"
                )


def check_room(needed: int) -> None:
    """Raise MemoryBudgetError early: a failed allocation would end the process."""
    budget = device_budget()
    room = max(budget.bytes, budget.total if budget.metal else 0)
    if needed > room:
        raise MemoryBudgetError(
            f"the weights take {format_bytes(needed)}, but there are "
            f"{format_bytes(room)} ({budget.source}): use a smaller recipe or model"
        )


def start_reading(
    parameter: Parameter,
    dtype: mx.Dtype,
    files: dict[Path, int],
    pool: ThreadPoolExecutor,
) -> tuple[mx.array, list["Future[int]"]]:
    """Allocate one parameter and let the pool fill it; jobs return the bytes read."""
    array = empty(parameter.shape, memory_dtype(parameter, dtype))
    view = np.asarray(array)
    if parameter.transposed:
        pieces = (
            piece
            for source in parameter.sources
            for piece in split_into_chunks(source, values=view[0].size)
        )
        parts = [(piece, view[e]) for e, piece in enumerate(pieces)]
        return array, [
            pool.submit(read_chunk, fill_transposed, files, *x) for x in parts
        ]
    parts = split_sources(parameter, view.reshape(-1))
    return array, [pool.submit(read_chunk, fill, files, *x) for x in parts]


def split_sources(
    parameter: Parameter, flat: np.ndarray
) -> Iterator[tuple[TensorChunk, np.ndarray]]:
    """Pair every chunk of the sources with its slice of memory."""
    floats = parameter.form == FLOAT
    place = (
        flat if floats else flat.view(np.uint8)
    )  # stored bytes may be words in memory
    first = 0
    for source in parameter.sources:
        width = 1 if floats else source.itemsize
        for chunk in split_into_chunks(source):
            yield chunk, place[first + chunk.start * width : first + chunk.stop * width]
        first += source.count * width


def read_chunk(
    how: Callable[[int, TensorChunk, np.ndarray], None],
    files: dict[Path, int],
    chunk: TensorChunk,
    out: np.ndarray,
) -> int:
    how(files[chunk.tensor.file], chunk, out)
    return chunk.nbytes


def memory_dtype(parameter: Parameter, dtype: mx.Dtype) -> mx.Dtype:
    """Choose a dtype that NumPy has too: uint16 for bfloat16."""
    if parameter.form != FLOAT:
        return {WORD: mx.uint32, BYTE: mx.uint8}[parameter.form]
    return mx.uint16 if dtype == mx.bfloat16 else dtype


def set_dtype(array: mx.array, parameter: Parameter, dtype: mx.Dtype) -> mx.array:
    """View filled memory in its true dtype, without a copy."""
    if parameter.form != FLOAT or array.dtype == dtype:
        return array
    named = array.view(dtype)
    mx.eval(named)
    return named
