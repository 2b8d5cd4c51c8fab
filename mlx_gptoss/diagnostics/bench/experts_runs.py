"""The measurements of `bench experts`, one per process.

    python -m mlx_gptoss.diagnostics.bench.experts_runs NAME FOLDER

prints one JSON object. Times are in seconds, rates in bytes or tokens per second.
"""

import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_gptoss.checkpoint import Checkpoint, open_checkpoint
from mlx_gptoss.checkpoint.expert_records import expert_records
from mlx_gptoss.diagnostics.bench.experts_loading import (
    load_own,
    load_stock,
    read_files,
)
from mlx_gptoss.diagnostics.probe import measure_experts, measure_memory, measure_sync
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import load_planned, plan_checkpoint
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import HitCurve, Machine, Plan, measure_workload, predict
from mlx_gptoss.memory.plan import STREAMED, with_slots
from mlx_gptoss.model.device import choose_dtype
from mlx_gptoss.model.experts.reader import THREADS, ExpertReader, ReadRange
from mlx_gptoss.model.experts.slots import Slots
from mlx_gptoss.model.experts.storage import ExpertStorage
from mlx_gptoss.model.experts.streamed import distinct_experts
from mlx_gptoss.model.gpt_oss import GptOss

CONTEXT = 4096
ROUNDS = 3
WARM_TOKENS, DECODED_TOKENS = 16, 24
TURNS, TURN_TOKENS = 11, 8
STEADY_FROM, STEADY_TOKENS = 100, 500
FILLS = 24
HOST_CALLS = 20_000
PROMPT_TOKENS = 512  # enough to use every expert of a layer
STATM_PAGES = 1  # the resident column of /proc/self/statm
EVICTED_SHARE = 4  # E / 4 slots, so that most loads evict


def decode_side_by_side(folder: Path) -> dict[str, Any]:
    """Decode with resident experts, and with streamed ones that are all in slots."""
    checkpoint = open_checkpoint(folder)
    experts = checkpoint.config.num_local_experts
    resident, _ = load_planned(
        checkpoint, planned(checkpoint, "resident"), dtype=choose_dtype(None)
    )
    streamed, storage = load_streamed(checkpoint, experts)
    fill_all(storage, experts)
    rates: dict[str, list[float]] = {"resident": [], "streamed": []}
    for model in (resident, streamed):
        decode(model, WARM_TOKENS)
    misses = storage.statistics().total.misses
    for turn in range(TURNS):  # many short turns, so that other work slows both
        sides = [("resident", resident), ("streamed", streamed)]
        for name, model in sides if turn % 2 else sides[::-1]:
            rates[name].append(decode(model, TURN_TOKENS))
    assert storage.statistics().total.misses == misses, "something was read"
    storage.close()
    return {
        "resident": median(rates["resident"]),
        "streamed": median(rates["streamed"]),
        "ratio": median(
            s / r for s, r in zip(rates["streamed"], rates["resident"], strict=True)
        ),
        "host_microseconds": host_cost(experts, checkpoint.config.num_experts_per_tok),
    }


def host_cost(experts: int, per_token: int) -> float:
    """Time slot lookup and LRU per layer and token, all hits: microseconds of CPU."""
    slots = Slots(experts, experts)
    slots.assign(range(experts), slots.allocate(experts, ()))
    rng = np.random.default_rng(0)
    choices = [
        mx.array(rng.permutation(experts)[None, :per_token].astype(np.uint32))
        for _ in range(256)
    ]
    mx.eval(choices)
    started = time.thread_time()  # CPU time of this thread only
    for n in range(HOST_CALLS):
        ids = choices[n % 256]
        slots.touch(distinct_experts(ids))
        mx.take(slots.table, ids)
    return 1e6 * (time.thread_time() - started) / HOST_CALLS


def fill_slots(folder: Path) -> dict[str, float]:
    """Load missing experts into slots, beside plain preadv of the same bytes."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    slots = max(config.num_experts_per_tok, config.num_local_experts // EVICTED_SHARE)
    _, storage = load_streamed(checkpoint, slots)
    layer = next(iter(storage.layers.values()))
    records = expert_records(checkpoint)[0]
    rng = random.Random(0)
    k = config.num_experts_per_tok
    rates: dict[str, list[float]] = {"slots": [], "plain": []}
    reader = ExpertReader(records.files)
    buffers = {
        (n, name): np.zeros(stack.nbytes, np.uint8)
        for n in range(k)
        for name, stack in records.stacks.items()
    }
    for _ in range(FILLS):
        absent = [e for e in range(records.experts) if e not in layer.cached]
        missing = rng.sample(absent, k)
        for e in missing:  # so that both read from the page cache
            warm(records.byte_ranges(e))
        started = time.perf_counter()
        layer.load(set(missing))
        rates["slots"].append(k * records.record_bytes / since(started))
        runs = [
            ReadRange(name, stack.file, at, buffers[n, name].data)
            for n, e in enumerate(missing)
            for name, stack, at in records.byte_ranges(e)
        ]
        started = time.perf_counter()
        plain_parallel(reader, runs)
        rates["plain"].append(k * records.record_bytes / since(started))
    reader.close()
    storage.close()
    found = {name: median(values) for name, values in rates.items()}
    return found | {"ratio": found["slots"] / found["plain"]}


def plain_parallel(reader: ExpertReader, runs: list[ReadRange]) -> None:
    """Read ranges with nothing but threads and preadv."""
    descriptors = {path: os.open(path, os.O_RDONLY) for path in {r.file for r in runs}}
    with ThreadPoolExecutor(THREADS) as pool:
        list(
            pool.map(lambda r: os.preadv(descriptors[r.file], [r.out], r.offset), runs)
        )
    for descriptor in descriptors.values():
        os.close(descriptor)


def warm(runs: Iterable[tuple[str, Any, int]]) -> None:
    for _, stack, at in runs:
        with stack.file.open("rb") as file:
            file.seek(at)
            file.read(stack.nbytes)


def since(started: float) -> float:
    return time.perf_counter() - started


def stay_steady(folder: Path) -> dict[str, Any]:
    """Decode many tokens with few slots: memory must stay constant."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    slots = max(config.num_experts_per_tok, config.num_local_experts // EVICTED_SHARE)
    model, storage = load_streamed(checkpoint, slots)
    cache, token = model.make_cache(), mx.array([[1]])
    active, resident = [], []
    for n in range(STEADY_FROM + STEADY_TOKENS):
        if cache.offset >= STEADY_FROM:
            cache = model.make_cache()  # the KV cache may grow, the pools must not
        token = mx.argmax(model(token, cache)[:, -1:], axis=-1)
        mx.eval(token)
        if n >= STEADY_FROM:
            active.append(mx.get_active_memory() - cache.nbytes)
            resident.append(rss())
    misses = storage.statistics().total.misses
    storage.close()
    return {
        "steps": STEADY_TOKENS,
        "misses": misses,
        "active_values": len(set(active)),
        "active_spread": max(active) - min(active),
        "rss_growth": resident[-1] - resident[0],
    }


def check_prediction(folder: Path) -> dict[str, Any]:
    """Predict decode speed from probed figures, and measure it."""
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    slots = max(config.num_experts_per_tok, config.num_local_experts // EVICTED_SHARE)
    model, storage = load_streamed(checkpoint, slots)
    decode(model, WARM_TOKENS)
    before = storage.statistics()
    rate = decode(model, DECODED_TOKENS * ROUNDS)
    total = (storage.statistics() - before).total
    storage.close()
    fills = fill_slots(folder)
    machine = Machine(
        "here",
        measure_memory(),
        fills["plain"],
        sync_seconds=measure_sync(),
        expert_rate=measure_experts(),
        measured=True,
    )
    share = slots / config.num_local_experts
    curve = HitCurve.recorded({share: total.hit_rate}, "this run")
    plan = streamed_plan(checkpoint, slots)
    found = predict(measure_workload(plan, config), machine, curve, prompt_tokens=1)
    speed = found.tokens_per_second
    return {
        "slots": slots,
        "hit_rate": total.hit_rate,
        "measured": rate,
        "predicted": vars(speed),
        "error": speed.expected / rate - 1,
        "milliseconds": dict(found.terms),
        "bandwidth": machine.bandwidth,
        "disk": machine.ssd,
        "sync_seconds": machine.sync_seconds,
    }


def planned(checkpoint: Checkpoint, experts: str) -> Plan:
    return plan_checkpoint(checkpoint, LoadOptions(experts=experts, context=CONTEXT))


def streamed_plan(checkpoint: Checkpoint, slots: int) -> Plan:
    config = checkpoint.config
    layers = dict.fromkeys(range(config.num_hidden_layers), slots)
    return with_slots(planned(checkpoint, STREAMED), config, layers, STREAMED)


def load_streamed(checkpoint: Checkpoint, slots: int) -> tuple[GptOss, ExpertStorage]:
    plan = streamed_plan(checkpoint, slots)
    model, storage = load_planned(checkpoint, plan, dtype=choose_dtype(None))
    assert storage is not None
    return model, storage


def fill_all(storage: ExpertStorage, experts: int) -> None:
    for layer in storage.layers.values():
        layer.load(set(range(experts)))


def decode(model: GptOss, tokens: int) -> float:
    """Decode greedily from one token: tokens per second."""
    cache, token = model.make_cache(), mx.array([[7]])
    mx.eval(model(token, cache))
    started = time.perf_counter()
    for _ in range(tokens):
        token = mx.argmax(model(token, cache)[:, -1:], axis=-1)
        mx.eval(token)
    return tokens / since(started)


def rss() -> int:
    """Return the resident memory of this process; 0 if the system has no statm."""
    gc.collect()
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    pages = int(statm.read_text().split()[STATM_PAGES])
    return pages * os.sysconf("SC_PAGE_SIZE")


RUNS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "read": read_files,
    "load": load_own,
    "stock": load_stock,
    "decode": decode_side_by_side,
    "fill": fill_slots,
    "steady": stay_steady,
    "prediction": check_prediction,
}

if __name__ == "__main__":
    try:
        print(json.dumps(RUNS[sys.argv[1]](Path(sys.argv[2]))))
    except GptOssError as error:
        sys.exit(str(error))
