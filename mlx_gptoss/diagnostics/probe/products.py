"""Time linear layers, experts and attention with the modules that models are made of.

Each is timed at sizes between the smallest and the largest models, for one row and for
many, so that every way of multiplying that the modules choose is seen: gathered or
dequantized, one stream or two, sorted or not.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_gptoss.diagnostics.probe.layers import (
    EXPERTS,
    FEW_COPIES,
    Layer,
    choose_all,
    expert_layers,
    linear_layers,
)
from mlx_gptoss.diagnostics.probe.stopwatch import (
    LEAST_SECONDS,
    MOST_SECONDS,
    Clock,
    ProbeScale,
    TimedPiece,
    time_rounds,
    warm_up,
)
from mlx_gptoss.format.config import Quantization
from mlx_gptoss.memory.costs import LARGE, SMALL, CostTable
from mlx_gptoss.memory.sizes import MXFP4_BITS
from mlx_gptoss.model.attention import Masks, attend
from mlx_gptoss.model.blas import preload_blas
from mlx_gptoss.model.device import choose_dtype, on_gpu
from mlx_gptoss.model.linear import DEQUANTIZE_MIN_ROWS

LARGEST = ProbeScale().largest
HIDDEN_SIZES = {  # of the timed layers
    "dense": (64, 192, 768, LARGEST),
    "affine8": (64, 192, LARGEST),
    "affine4": (64, 192, LARGEST),
    "experts": (64, 192, 768, LARGEST),
}
ROWS = (1, 8, 64, 512)
# A CPU decodes experts one by one from 8 rows on if that saves enough, and with a fast
# BLAS it dequantizes linear layers.
FEW_ROWS, MANY_ROWS = (1, DEQUANTIZE_MIN_ROWS - 1), (DEQUANTIZE_MIN_ROWS, 64, 512)
ROWS_DEQUANTIZED = FEW_ROWS + MANY_ROWS

# A chain of small layers has so many at most that starting it does not count.
LONGEST_CHAIN = 32

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 64
KEYS, FEW_KEYS, QUERIES = 1024, 256, 128

QUANTIZATIONS: dict[str, Quantization | None] = {
    "dense": None,
    "affine8": Quantization(8, 64, "affine"),
    "affine4": Quantization(4, 64, "affine"),
}


@dataclass
class TimedProduct:
    """A piece whose runs each make `count` products of a table's entry."""

    table: str
    size: int
    rows: int
    count: int
    piece: TimedPiece


def prepare_products(clock: Clock, *, largest: int) -> Iterator[TimedProduct]:
    """Yield the products to time, up to a hidden size, warmed up.

    Slow ones end the rows of their size.
    """
    many = ROWS_DEQUANTIZED if dequantizes() else ROWS
    for table, hidden_sizes in HIDDEN_SIZES.items():
        for M in (n for n in hidden_sizes if n <= largest):
            if table != "experts":
                layers = linear_layers(M, QUANTIZATIONS[table])
                yield from prepare_chains(table, M * M, layers, many, M, clock)
                continue
            copied, size = expert_layers(M), 3 * M * M
            gathered = [choose_all(x) for x in copied]
            few = ROWS if on_gpu() else FEW_ROWS
            yield from prepare_chains(table, size, gathered, few, M, clock, EXPERTS)
            if not on_gpu():
                # Of large ones one takes long enough.
                some = copied[: FEW_COPIES if M <= LARGE else 1]
                one_by_one = [choose_all(x.apply_one_by_one) for x in some]
                yield from prepare_chains(
                    "dequantized", size, one_by_one, MANY_ROWS, M, clock, EXPERTS
                )
    if largest >= SMALL:
        yield from _prepare_cold(SMALL, clock)


def _prepare_cold(M: int, clock: Clock) -> Iterator[TimedProduct]:
    """Yield one row by as many small layers as fit no cache, and by few as often."""
    linear: list[Layer] = linear_layers(M, None, cold=True)
    experts = [choose_all(x) for x in expert_layers(M, cold=True)]
    for name, layers in (("dense", linear), ("experts", experts)):
        again = layers[:FEW_COPIES] * (len(layers) // FEW_COPIES)
        per_layer = EXPERTS if layers is experts else 1
        yield from prepare_chains(f"cold {name}", M, layers, (1,), M, clock, per_layer)
        yield from prepare_chains(f"warm {name}", M, again, (1,), M, clock, per_layer)


def cold_seconds(products: Iterable[TimedProduct], name: str) -> float:
    """Return what one small product takes longer from memory than from a cache."""
    seconds = {x.table: x.piece.median / x.count for x in products}
    if f"cold {name}" not in seconds:
        return 0.0
    return max(0.0, seconds[f"cold {name}"] - seconds[f"warm {name}"])


def dequantizes() -> bool:
    """Return whether linear layers dequantize here before they multiply many rows."""
    return preload_blas().optimized and not on_gpu()


def make_table(products: Iterable[TimedProduct], name: str) -> CostTable:
    """Return the median seconds of one product, as they were timed."""
    points: dict[int, list[tuple[float, float]]] = {}
    for x in products:
        if x.table == name:
            seconds = x.piece.median / x.count
            points.setdefault(x.size, []).append((x.rows, seconds))
    return CostTable(points)


def make_expert_tables(
    products: Sequence[TimedProduct],
) -> tuple[CostTable, CostTable | None, float]:
    """Return the tables of one expert, gathered and dequantized, and of a call.

    The smallest experts take next to no time, so that one row of them is the call.
    """
    timed = make_table(products, "experts").points
    call = timed[min(timed)][0][1]
    gathered = {
        size: [(rows, max(0.0, seconds - call)) for rows, seconds in found]
        for size, found in timed.items()
    }
    dequantized = None if on_gpu() else make_table(products, "dequantized")
    return CostTable(gathered), dequantized, EXPERTS * call


def measure_experts(rounds: int = ProbeScale().rounds) -> float:
    """Run single tokens through experts of the published size: bytes per second."""
    layers = [choose_all(x) for x in expert_layers(LARGEST)]
    x = mx.random.normal((1, LARGEST)).astype(choose_dtype(None))
    piece = TimedPiece(_chain(layers, x))
    warm_up(piece)
    time_rounds([piece], rounds=rounds)
    return expert_bytes() * EXPERTS * len(layers) / min(piece.seconds)


def expert_bytes() -> int:
    """Return the bytes of an expert of the published size."""
    return round(3 * LARGEST * LARGEST * MXFP4_BITS / 8)


def prepare_attention() -> dict[str, tuple[TimedPiece, float]]:
    """Return, by name, a piece, and how many times heads attend to keys in it.

    A decode step is timed with many keys and with few, whose difference counts.
    """
    queries = mx.random.normal((1, HEADS, QUERIES, HEAD_DIM))
    keys = mx.random.normal((1, KV_HEADS, KEYS, HEAD_DIM))
    dtype = choose_dtype(None)
    queries, keys, sinks = queries.astype(dtype), keys.astype(dtype), mx.zeros(HEADS)
    mx.eval(queries, keys, sinks)

    def attended(rows: int, count: int) -> Callable[[], None]:
        q, k = mx.contiguous(queries[:, :, :rows]), mx.contiguous(keys[:, :, :count])
        mx.eval(q, k)
        more = {"scale": 0.125, "sinks": sinks, "window": None}
        return lambda: mx.eval(attend(q, k, k, masks=Masks(), **more))

    return {
        "many keys": (TimedPiece(attended(1, KEYS)), HEADS * KEYS),
        "few keys": (TimedPiece(attended(1, FEW_KEYS)), HEADS * FEW_KEYS),
        "score": (TimedPiece(attended(QUERIES, KEYS)), HEADS * QUERIES * KEYS),
    }


def prepare_chains(
    table: str,
    size: int,
    layers: list[Layer],
    counts: Sequence[int],
    M: int,
    clock: Clock,
    per_layer: int = 1,
) -> Iterator[TimedProduct]:
    """Yield layers to time, one after another, for each of `counts` rows of M values.

    They are repeated until a chain takes LEAST_SECONDS or has LONGEST_CHAIN of them.
    """
    is_linear = not (dequantizes() or on_gpu())  # in time by rows
    expected = 0.0
    for rows, more in zip(counts, (*counts[1:], 0), strict=True):
        if expected > MOST_SECONDS:
            return
        used = layers if rows == 1 or table == "dequantized" else layers[:1]
        x = mx.random.normal((rows, M)).astype(choose_dtype(None))
        mx.eval(x)
        piece = TimedPiece(_chain(used, x))
        times = LEAST_SECONDS / max(warm_up(piece, clock), 1e-9)
        repeats = int(min(times, LONGEST_CHAIN / len(used)))
        if repeats > 1:
            used = used * repeats
            piece = TimedPiece(_chain(used, x))
            warm_up(piece, clock)
        seconds = piece.first / len(used)
        yield TimedProduct(table, size, rows, len(used) * per_layer, piece)
        expected = seconds * more / rows if is_linear else seconds


def _chain(layers: list[Layer], x: mx.array) -> Callable[[], None]:
    def run() -> None:
        y = x
        for layer in layers:
            y = layer(y)
        mx.eval(y)

    return run
