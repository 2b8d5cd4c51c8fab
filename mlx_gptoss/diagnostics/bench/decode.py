"""Prefill and decode speed of a model, alone or beside stock mlx-lm.

Each engine runs in its own process, with the same BLAS and dtype. Rounds are
interleaved (ours, theirs, ours, ...), so that a busy machine slows both, and figures
are medians. A third column is mlx-lm as shipped (the checkpoint's dtype and MLX's own
BLAS; one round at the first depth, because it is slow on a CPU); it is omitted if it
would repeat the second column. With adapters the second column is the same model
without them. Prompts are random token ids from a fixed seed, decoded
greedily; stop tokens are ignored.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.diagnostics.bench.child_process import EngineFailure
from mlx_gptoss.diagnostics.bench.decode_results import DecodeBench
from mlx_gptoss.diagnostics.bench.engines import MLX_LM, OURS, dtype_name
from mlx_gptoss.diagnostics.bench.measured_engine import Condition, MeasuredEngine
from mlx_gptoss.diagnostics.doctor import describe_machine
from mlx_gptoss.diagnostics.progress import ReportProgress, ignore_progress
from mlx_gptoss.engine.adapter_source import only_adapter
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import plan_checkpoint
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.memory import device_budget, require_fit

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
    options: LoadOptions,
    *,
    against: str | None = None,
    depths: Sequence[int] | None = None,
    tokens: int = DEFAULT_TOKENS,
    rounds: int = DEFAULT_ROUNDS,
    progress: ReportProgress = ignore_progress,
) -> DecodeBench:
    """Measure the model in a folder, and `against` "mlx-lm" on the same folder.

    `depths` are prompt lengths; `tokens` are decoded behind each. `progress` gets a
    line before each step. Prompt and answer stay within the context of `options`.
    Raises EngineFailure if ours cannot be measured; a failure of the peer is recorded
    in its column.
    """
    checkpoint = open_checkpoint(model, strict=options.strict)
    config, folder = checkpoint.config, checkpoint.folder
    options.check_context(config)
    budget = device_budget(options.memory)
    room = (options.context or config.max_position_embeddings) - tokens
    prompt_lengths = tuple(depths or _default_depths(room, gpu=budget.metal))
    _check(prompt_lengths, tokens=tokens, rounds=rounds, room=room, against=against)
    if against is not None and options.adapters:
        raise GptOssError(
            "with adapters the model is compared to itself without them: leave out "
            "`--against` or `--adapter`"
        )
    only_adapter(options.adapter_sources)  # refuses several that are meant equally
    options = replace(
        options,
        dtype=dtype_name(options.compute_dtype),
        context=max(prompt_lengths) + tokens,
    )
    plan = plan_checkpoint(checkpoint, options, budget=budget)
    require_fit(plan, config, str(model))
    conditions = _conditions(against, prompt_lengths, rounds, options)
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
    against: str | None, depths: tuple[int, ...], rounds: int, options: LoadOptions
) -> list[Condition]:
    ours = Condition(OURS, OURS, options, depths, rounds)
    if options.adapters:
        without = replace(options, adapters=())
        return [ours, replace(ours, name=f"{OURS} without", options=without)]
    if against is None:
        return [ours]
    peer = replace(ours, name=against, engine=against)
    shipped = replace(
        peer,
        name=f"{against} as shipped",
        options=replace(options, dtype=None),
        depths=depths[:1],
        rounds=min(rounds, SHIPPED_ROUNDS),
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
