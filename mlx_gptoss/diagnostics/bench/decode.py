"""Prefill and decode speed of a model, alone or beside stock mlx-lm.

Each engine runs in its own process, with the same BLAS and dtype. Rounds are
interleaved (ours, theirs, ours, ...), so that a busy machine slows both, and figures
are medians. A third column is mlx-lm as shipped (the checkpoint's dtype and MLX's own
BLAS; one round at the first depth, because it is slow on a CPU); it is omitted if it
would repeat the second column. Prompts are random token ids from a fixed seed, decoded
greedily; stop tokens are ignored.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.decode_results import DecodeBench
from mlx_gptoss.diagnostics.bench.engines import MLX_LM, OURS, default_dtype
from mlx_gptoss.diagnostics.bench.measured_engine import Condition, MeasuredEngine
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.hit_curve import load_hit_curve
from mlx_gptoss.engine.planned_load import check_context, plan_checkpoint
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import device_budget, parse_bytes, require_fit
from mlx_gptoss.memory.plan import AUTO
from mlx_gptoss.model.device import choose_dtype

PEERS = (MLX_LM,)
GPU_DEPTHS = (128, 2048, 8192)
CPU_DEPTHS = (32, 256)
DEFAULT_TOKENS = 32
DEFAULT_ROUNDS = 3
SHIPPED_ROUNDS = 1
LEAST_TOKENS = 2  # decode is timed from the first token to the last
SHARE_OF_MEMORY = 0.7  # that engines kept loaded between rounds may take together
READ_BYTES = 2**24


def bench_decode(
    model: Path,
    *,
    against: str | None = None,
    dtype: str | None = None,
    memory: str | int | None = None,
    experts: str = AUTO,
    trace: Path | None = None,
    context: int | None = None,
    strict: bool = False,
    depths: Sequence[int] | None = None,
    tokens: int = DEFAULT_TOKENS,
    rounds: int = DEFAULT_ROUNDS,
    progress: ReportProgress = ignore_progress,
) -> DecodeBench:
    """Measure the model in a folder, and `against` "mlx-lm" on the same folder.

    `depths` are prompt lengths; `tokens` are decoded behind each. `progress` gets a
    line before each step. `memory`, `experts`, `trace`, `context` and `strict` are as
    for `load`; prompt and answer stay within `context`. Raises EngineFailure if ours
    cannot be measured; a failure of the peer is recorded in its column.
    """
    checkpoint = open_checkpoint(model, strict=strict)
    config, folder = checkpoint.config, checkpoint.folder
    check_context(config, context)
    budget = device_budget(memory)
    room = (context or config.max_position_embeddings) - tokens
    prompt_lengths = tuple(depths or _default_depths(room, gpu=budget.metal))
    _check(prompt_lengths, tokens=tokens, rounds=rounds, room=room, against=against)
    options = {
        "experts": experts,
        "memory": None if memory is None else parse_bytes(memory),
        "context": max(prompt_lengths) + tokens,
        "trace": None if trace is None else str(trace),
    }
    plan = plan_checkpoint(
        checkpoint,
        choose_dtype(dtype),
        memory,
        options["context"],
        experts=experts,
        budget=budget,
        curve=None if trace is None else load_hit_curve(trace, config),
    )
    require_fit(plan, config, str(model))
    conditions = _conditions(
        against, dtype or default_dtype(), prompt_lengths, rounds, options
    )
    subjects = [MeasuredEngine(each, folder, config.vocab_size) for each in conditions]
    shared = int(budget.total * SHARE_OF_MEMORY)
    load_average = os.getloadavg()[0]

    if plan.whole_bytes < shared:
        progress("reading the weights once, so that no engine loads from a cold disk")
        _warm_page_cache(checkpoint.files)
    theirs = plan.whole_bytes * (len(subjects) - 1)
    together = plan.weight_bytes + theirs < shared
    with ExitStack() as stack:
        running = _started(subjects, together=together, stack=stack, progress=progress)
        for turn in range(rounds):
            for subject in running:
                if turn < subject.condition.rounds:
                    progress(f"round {turn + 1} of {rounds}: {subject.column.name}")
                    subject.run_round(tokens)
    return DecodeBench(
        model=str(model),
        machine=describe_machine(),
        load_average=load_average,
        tokens=tokens,
        columns=tuple(
            subject.result()
            for subject in subjects
            if subject in running or subject.column.failure
        ),
    )


def _default_depths(room: int, *, gpu: bool) -> tuple[int, ...]:
    """Return the usual depths that fit the context, or its full length."""
    usual = GPU_DEPTHS if gpu else CPU_DEPTHS
    return tuple(depth for depth in usual if depth <= room) or (room,)


def _warm_page_cache(files: Iterable[Path]) -> None:
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.read(READ_BYTES):
                pass


def _check(
    depths: Sequence[int], *, tokens: int, rounds: int, room: int, against: str | None
) -> None:
    if against not in (None, *PEERS):
        raise GptOssError(f"cannot compare with `{against}`: only `{MLX_LM}` is known")
    if tokens < LEAST_TOKENS or rounds < 1:
        raise GptOssError(
            f"{tokens} tokens and {rounds} rounds measure nothing: decode at least "
            f"{LEAST_TOKENS} tokens in at least one round"
        )
    wrong = [depth for depth in depths if not 1 <= depth <= room]
    if wrong:
        raise GptOssError(
            f"depth {wrong[0]} and {tokens} tokens do not fit the context of this "
            f"model: choose depths from 1 to {room}"
        )


def _conditions(
    against: str | None,
    dtype: str,
    depths: tuple[int, ...],
    rounds: int,
    options: Mapping[str, Any],
) -> list[Condition]:
    ours = Condition(OURS, OURS, dtype, depths, rounds, options=options)
    if against is None:
        return [ours]
    peer = Condition(against, against, dtype, depths, rounds)
    shipped = Condition(
        f"{against} as shipped",
        against,
        None,
        depths[:1],
        min(rounds, SHIPPED_ROUNDS),
        lend_blas=False,
    )
    return [ours, peer, shipped]


def _started(
    subjects: list[MeasuredEngine],
    *,
    together: bool,
    stack: ExitStack,
    progress: ReportProgress,
) -> list[MeasuredEngine]:
    """Start each engine; omit a peer that fails or would repeat a column."""
    running: list[MeasuredEngine] = []
    failed: set[str] = set()
    for subject in subjects:
        if subject.condition.engine in failed:
            continue  # as shipped it would fail as well
        progress(f"loading {subject.column.name}")
        try:
            subject.start(stack, keep=together)
        except EngineFailure as error:
            if not running:
                raise
            subject.column.failure = str(error)
            failed.add(subject.condition.engine)
            continue
        if not any(subject.same_measurement_as(other) for other in running):
            running.append(subject)
    return running
