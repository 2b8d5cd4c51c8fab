"""Find, check and load a model: a name in, a `Runtime` out.

    with load("openai/gpt-oss-20b") as runtime:
        ...

All that can be refused is refused before a weight is read, most of it before a byte is
downloaded.
"""

import logging
import threading
from pathlib import Path

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.checkpoint.notices import list_warnings
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.engine.hit_curve import load_hit_curve
from mlx_gptoss.engine.planned_load import (
    Progress,
    check_experts,
    download_check,
    load_planned,
    plan_checkpoint,
    raise_if_stopped,
)
from mlx_gptoss.engine.prompt_cache import (
    MIN_FILE_TOKENS,
    CacheOptions,
    PromptFiles,
    cache_digest,
)
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.scheduler import BatchOptions
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.format.file_names import TOKENIZER_FILE
from mlx_gptoss.memory import parse_bytes, require_fit
from mlx_gptoss.memory.wired import check_wired, wire
from mlx_gptoss.model.device import choose_dtype

LOGGER = logging.getLogger(__name__)


def load(
    model: str | Path,
    *,
    dtype: str | None = None,
    memory: str | int | None = None,
    experts: str = "auto",
    context: int | None = None,
    offline: bool = False,
    strict: bool = False,
    harmony: bool = False,
    cache: CacheOptions | None = None,
    batch: BatchOptions | None = None,
    wired: str = "auto",
    trace: str | Path | None = None,
    progress: Progress | None = None,
) -> Runtime:
    """Find, check and load a model: `demo`, a path (`./x`, absolute) or a Hub id.

    A folder here that holds weights goes before a Hub id, with a warning.

    `dtype` is float32 or bfloat16 (default: bfloat16 on a GPU, float32 on a CPU).
    `memory`, such as "16GB" or bytes, lowers what the model may use, counted at
    `context` tokens, which must not exceed what the model knows. `experts` is
    resident, hybrid, streamed (both read experts from disk as they are needed), or
    auto: the first of them that fits. `wired` is how much a GPU keeps in memory for
    good: auto (the size of the model), off, or a size. `trace` is a file of
    `mlx-gptoss trace record`: experts are then placed by the hit rates of that run.
    `offline` forbids downloads; `strict` makes unknown config keys errors; `harmony`
    refuses a model that cannot chat before its weights are read; `cache` says how
    much of what was read is kept, in memory and on disk; `batch` how many requests
    of `submit` run at once.
    `progress(done, total)` counts bytes read from disk.

    Raises HubError, ConfigError or CheckpointError for what cannot be loaded, and
    MemoryBudgetError before any weight is read if it would not fit.
    """
    check_experts(experts)
    compute = choose_dtype(dtype)
    if memory is not None:
        parse_bytes(memory)
    check_wired(wired)
    # A Path is a folder however it is written; the text "a/b" may be a Hub id.
    name = str(model.absolute()) if isinstance(model, Path) else model
    fits = download_check(name, memory, context, experts=experts, strict=strict)
    folder = Path(resolve(name, offline=offline, check=fits))
    owner, stopped = EngineThread(name), threading.Event()

    def read() -> Runtime:
        checkpoint = open_checkpoint(folder, strict=strict)
        curve = load_hit_curve(Path(trace), checkpoint.config) if trace else None
        plan = plan_checkpoint(
            checkpoint, compute, memory, context, experts=experts, curve=curve
        )
        require_fit(plan, checkpoint.config, name)
        for line in list_warnings(checkpoint):
            LOGGER.warning("%s", line)
        homes = [checkpoint.folder, folder]
        home = next((h for h in homes if (h / TOKENIZER_FILE).is_file()), folder)
        tokenizer: Tokenizer | Path = home
        if harmony:
            tokenizer = Tokenizer.open(home)
            tokenizer.require_harmony()
        wire(wired, plan)
        loaded, storage = load_planned(
            checkpoint,
            plan,
            dtype=compute,
            progress=raise_if_stopped(stopped, progress),
        )
        return Runtime(
            loaded,
            config=checkpoint.config,
            tokenizer=tokenizer,
            plan=plan,
            storage=storage,
            context=context,
            thread=owner,
            cache=cache,
            batch=batch,
            files=lambda options: PromptFiles(
                options.root,
                cache_digest(checkpoint, compute),
                checkpoint.config,
                compute,
                options.disk_bytes,
                min_tokens=MIN_FILE_TOKENS,
            ),
        )

    try:
        return owner.call(read)
    except BaseException:
        stopped.set()  # an interrupt is raised here while the owner still reads
        owner.close()
        raise
