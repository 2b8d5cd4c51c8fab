"""Test the assumptions of the package on this machine, in under a minute.

Each check reports a detail. Using a fallback is not a failure: results must be right
either way, so every fallback can be forced.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint import load_model, open_checkpoint
from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.checkpoint.mapping import PageSharing, map_parameter, share_pages
from mlx_gptoss.checkpoint.parameters import WORD, Parameter
from mlx_gptoss.checkpoint.safetensors_header import StoredTensor
from mlx_gptoss.diagnostics.doctor.facts import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.diagnostics.storage_check import compare_modes
from mlx_gptoss.files import scratch, storage_errors, temporary_folder
from mlx_gptoss.format import mxfp4
from mlx_gptoss.format.config import MXFP4
from mlx_gptoss.model.device import choose_dtype, on_gpu
from mlx_gptoss.model.experts.pool import SlotPool
from mlx_gptoss.model.experts.write_check import check_writes
from mlx_gptoss.model.gpt_oss import GptOss

ADOPTION, POOL_WRITES = "adoption", "pool-writes"
FALLBACKS = (ADOPTION, POOL_WRITES)

# For logits of size about 10: float32 in another order of summation; 8-bit mantissas.
FLOAT32_TOLERANCE, BFLOAT16_TOLERANCE = 2e-3, 0.5
PRODUCT_TOLERANCE = 2e-2  # relative: a GPU may multiply in half precision
PARITY_TOKENS = 40  # longer than the demo's window
SPEED_TOKENS = 64
ROWS, COLUMNS = 64, 256
OFFSET = 24_680  # of a tensor that starts inside a page
WIRED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Check:
    """Result of one check; if it failed, do not trust this machine's output."""

    name: str
    passed: bool
    detail: str
    seconds: float


@dataclass(frozen=True)
class SelfTest:
    """Results of all checks, and the machine they ran on."""

    machine: str
    forced: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"passed": self.passed}


def self_test(
    force: tuple[str, ...] = (), *, progress: ReportProgress = ignore_progress
) -> SelfTest:
    """Run every check; `force` names fallbacks to use even if they are not needed."""
    folder = Path(resolve("demo", offline=True))
    in_place = False if POOL_WRITES in force else None
    work: dict[str, Callable[[], tuple[bool, str]]] = {
        "products": check_products,
        "parity": lambda: check_parity(folder),
        "adoption": lambda: check_adoption(forced=ADOPTION in force),
        "pool writes": lambda: check_pools(forced=POOL_WRITES in force),
        "storages": lambda: check_storages(folder, in_place=in_place),
        "wired limit": check_wired_limit,
        "speed": lambda: check_speed(folder),
    }
    checks = []
    for name, check in work.items():
        progress(f"checking {name}")
        started = time.perf_counter()
        passed, detail = check()
        checks.append(Check(name, passed, detail, time.perf_counter() - started))
    return SelfTest(describe_machine(), force, tuple(checks))


def check_products() -> tuple[bool, str]:
    """Compare the device's MXFP4 product with values decoded by table lookup."""
    rng = np.random.default_rng(0)
    groups = COLUMNS // MXFP4.group_size
    blocks = rng.integers(
        0, 256, (2, ROWS, groups, mxfp4.BYTES_PER_BLOCK), dtype=np.uint8
    )
    scales = rng.integers(125, 129, (2, ROWS, groups), dtype=np.uint8)
    x = rng.standard_normal((2, 1, COLUMNS)).astype(np.float32)
    words = blocks.reshape(2, ROWS, -1).view(np.uint32)
    found = mx.gather_qmm(
        mx.array(x),
        mx.array(words),
        mx.array(scales),
        rhs_indices=mx.array([1, 0], mx.uint32),
        transpose=True,
        group_size=MXFP4.group_size,
        bits=MXFP4.bits,
        mode=MXFP4.mode,
    )
    exact = [
        x[n].astype(np.float64) @ mxfp4.decode(blocks[1 - n], scales[1 - n]).T
        for n in (0, 1)
    ]
    expected = np.stack(exact)
    error = float(np.abs(np.array(found) - expected).max() / np.abs(expected).max())
    return error <= PRODUCT_TOLERANCE, f"relative error {error:.1e}"


def check_parity(folder: Path) -> tuple[bool, str]:
    """Compare the demo's logits in one pass, token by token, and on the CPU."""
    dtype = choose_dtype(None)
    prompt = demo_prompt(folder)
    at_once = load_demo(folder, dtype)
    logits = at_once(mx.array([prompt]))[0]
    cache = at_once.make_cache()
    rows = [at_once(mx.array([[token]]), cache)[0, 0] for token in prompt]
    mx.eval(logits, rows)
    steps = difference(logits, mx.stack(rows))
    text = f"at once and token by token differ by {steps:.1e}"
    worst = steps
    if on_gpu():
        with mx.stream(mx.cpu):
            on_cpu = load_demo(folder, mx.float32)(mx.array([prompt]))[0]
            mx.eval(on_cpu)
        devices = difference(logits, on_cpu)
        text += f", GPU and CPU by {devices:.1e}"
        worst = max(worst, devices)
    bound = FLOAT32_TOLERANCE if dtype == mx.float32 else BFLOAT16_TOLERANCE
    return worst <= bound, text


def load_demo(folder: Path, dtype: mx.Dtype) -> GptOss:
    return load_model(open_checkpoint(folder), dtype=dtype)


def demo_prompt(folder: Path) -> list[int]:
    vocabulary = open_checkpoint(folder).config.vocab_size
    return [(37 * n + 5) % vocabulary for n in range(PARITY_TOKENS)]


def difference(a: mx.array, b: mx.array) -> float:
    return float(np.abs(np.array(a) - np.array(b)).max())


def check_adoption(*, forced: bool) -> tuple[bool, str]:
    """Share the pages of a tensor that starts inside a page; compare its values."""

    def refuse(pages: np.ndarray) -> mx.array:
        raise ValueError("forced")

    share: PageSharing = refuse if forced else share_pages
    values = np.random.default_rng(1).integers(0, 1 << 32, 10_000, dtype=np.uint32)
    with scratch(temporary_folder()) as inside:
        path = inside / "weights"
        with storage_errors(path):
            path.write_bytes(bytes(OFFSET) + values.tobytes())
        stored = StoredTensor("x", path, "U32", values.shape, OFFSET, values.nbytes)
        array = map_parameter(
            Parameter("x", "experts", WORD, values.shape, (stored,)), mx.float32, share
        )
        if array is None:
            return True, "not shared: files are read into memory instead"
        right = bool(mx.array_equal(array, mx.array(values)))
    return right, "shared without a copy" if right else "shared values are wrong"


def check_pools(
    *, forced: bool, seen: Callable[[], bool] = check_writes
) -> tuple[bool, str]:
    """Fill slots in place, or by assignment if the device does not see that."""
    if not forced and seen():
        return True, "slots are filled in place"
    pool = SlotPool(3, (8,), mx.uint32, in_place=False)
    content = bytes(range(32))
    pool.slot_memory(1)[:] = content
    pool.commit([1])
    right = np.array(pool.array[1]).tobytes() == content
    return right, "slots are filled by assignment"


def check_storages(folder: Path, *, in_place: bool | None) -> tuple[bool, str]:
    """Compare resident, streamed and hybrid experts on the demo."""
    found = compare_modes(folder, in_place=in_place)
    wrong = [each.name for each in found if not each.equal]
    if wrong:
        return False, "another model: " + ", ".join(wrong)
    return True, f"{len(found)} ways to keep experts give one model"


def check_wired_limit() -> tuple[bool, str]:
    """Set the wired limit and restore it."""
    if not on_gpu():
        return True, "a CPU wires nothing"
    most = int(mx.device_info().get("max_recommended_working_set_size", 0))
    before = mx.set_wired_limit(min(WIRED_BYTES, most))
    seen = mx.set_wired_limit(before)
    text = f"can be set; at most {most / 1e9:.1f} GB"
    return seen == min(WIRED_BYTES, most), text


def check_speed(folder: Path) -> tuple[bool, str]:
    """Time decode steps of the demo, for an order of magnitude."""
    model = load_demo(folder, choose_dtype(None))
    cache, token = model.make_cache(), mx.array([[5]])
    mx.eval(model(token, cache))
    started = time.perf_counter()
    for logits in decoded(model, token, cache):
        mx.eval(logits)
    rate = SPEED_TOKENS / (time.perf_counter() - started)
    return rate > 0, f"the demo decodes {rate:.0f} tokens a second"


def decoded(model: GptOss, token: mx.array, cache: Any) -> Iterator[mx.array]:
    for _ in range(SPEED_TOKENS):
        logits = model(token, cache)
        token = mx.argmax(logits[:, -1:], axis=-1)
        yield token
