"""Find, check and load a model: a name in, a Runtime out.

    with load("openai/gpt-oss-20b") as runtime:
        ...

Everything that can be refused is refused before a weight is read, most of it before a
byte is downloaded.
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
    """Find, check and load a model; return a Runtime.

    model: `demo`, a path (`./x` or absolute; a Path is always a folder) or a Hub id. A
        local folder with weights takes precedence over a Hub id, with a warning.
    dtype: `float32` or `bfloat16`; None is bfloat16 on a GPU, float32 on a CPU.
    memory: most bytes the model may use, or text such as "16GB"; None: what the
        machine has.
    experts: `resident` (all in memory), `hybrid` or `streamed` (read from disk on
        demand), or `auto`, the first of them that fits.
    context: most tokens of prompt and answer, at most (and by default) what the model
        supports.
    offline: download nothing.
    strict: make unknown keys in `config.json` errors.
    harmony: require Harmony's tokens, without which a model cannot chat.
    cache: limits of the prompt cache in memory and on disk, as `CacheOptions` of
        `mlx_gptoss.engine.prompt_cache`.
    batch: limits of `Runtime.submit`, as `BatchOptions` of
        `mlx_gptoss.engine.scheduler`.
    wired: memory a GPU keeps resident: `auto` (the size of the model), `off`, or a
        size.
    trace: a file of `mlx-gptoss trace record`; experts are placed by its hit rates.
    progress(done, total): called while loading, in bytes read from disk.

    Raises HubError, ConfigError or CheckpointError if the model cannot be found or
    loaded, PromptError if `harmony` is set and it cannot chat, and MemoryBudgetError,
    before any weight is read, if it does not fit.
    """
    check_experts(experts)
    compute = choose_dtype(dtype)
    if memory is not None:
        parse_bytes(memory)
    check_wired(wired)
    # A Path is always a folder; the text "a/b" may be a Hub id.
    name = str(model.absolute()) if isinstance(model, Path) else model
    fits = download_check(name, memory, context, experts=experts, strict=strict)
    folder = Path(resolve(name, offline=offline, check=fits))
    thread, stopped = EngineThread(name), threading.Event()

    def read() -> Runtime:
        checkpoint = open_checkpoint(folder, strict=strict)
        curve = load_hit_curve(Path(trace), checkpoint.config) if trace else None
        plan = plan_checkpoint(
            checkpoint, compute, memory, context, experts=experts, curve=curve
        )
        require_fit(plan, checkpoint.config, name)
        for line in list_warnings(checkpoint):
            LOGGER.warning("%s", line)
        folders = [checkpoint.folder, folder]
        source = next((f for f in folders if (f / TOKENIZER_FILE).is_file()), folder)
        tokenizer: Tokenizer | Path = source
        if harmony:
            tokenizer = Tokenizer.open(source)
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
            thread=thread,
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
        return thread.call(read)
    except BaseException:
        stopped.set()  # an interrupt is raised here while the thread still reads
        thread.close()
        raise
