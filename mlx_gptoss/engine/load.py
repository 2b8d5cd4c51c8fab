"""Find, check and load a model: a name in, a Runtime out.

    with load("openai/gpt-oss-20b") as runtime:
        ...

Everything that can be refused is refused before a weight is read, most of it before a
byte is downloaded.
"""

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlx_gptoss.checkpoint import open_checkpoint
from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.checkpoint.notices import list_warnings
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.checkpoint.weights_digest import weights_digest
from mlx_gptoss.engine.adapter_loading import load_adapters, starts_with_harmony
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.planned_load import (
    Progress,
    download_check,
    load_planned,
    plan_checkpoint,
    raise_if_stopped,
)
from mlx_gptoss.engine.prompt_cache import (
    MIN_FILE_TOKENS,
    PromptFiles,
    cache_digest,
)
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.thread import EngineThread
from mlx_gptoss.format.file_names import TOKENIZER_FILE
from mlx_gptoss.memory import require_fit
from mlx_gptoss.memory.wired import wire

LOGGER = logging.getLogger(__name__)


def load(
    model: str | Path,
    *,
    options: LoadOptions | None = None,
    progress: Progress | None = None,
    **fields: Any,
) -> Runtime:
    """Find, check and load a model; return a Runtime.

        load("demo", memory="16GB", context=32768)
        load("demo", options=LoadOptions(memory="16GB", context=32768))
        load("demo", adapters=["./harmony", "french=./adapters/fr:0.5"])

    model: `demo`, a path (`./x` or absolute; a Path is always a folder) or a Hub id. A
        local folder with weights takes precedence over a Hub id, with a warning.
    options: how to load it, by default `LoadOptions()`.
    fields: fields of `LoadOptions`, which replace those of `options`.
    progress(done, total): called while loading, in bytes read from disk.

    Raises HubError, ConfigError or CheckpointError if the model cannot be found or
    loaded, PromptError if `harmony` is set and it cannot chat, and MemoryBudgetError,
    before any weight is read, if it does not fit.
    """
    options = replace(options or LoadOptions(), **fields)
    # A Path is always a folder; the text "a/b" may be a Hub id.
    name = str(model.absolute()) if isinstance(model, Path) else model
    fits = download_check(name, options)
    folder = Path(resolve(name, offline=options.offline, check=fits))
    thread, stopped = EngineThread(name), threading.Event()
    report = raise_if_stopped(stopped, progress)
    try:
        return thread.call(
            lambda: _read(name, folder, options, thread=thread, progress=report)
        )
    except BaseException:
        stopped.set()  # an interrupt is raised here while the thread still reads
        thread.close()
        raise


def _read(
    name: str,
    folder: Path,
    options: LoadOptions,
    *,
    thread: EngineThread,
    progress: Progress,
) -> Runtime:
    """Load a folder in the engine thread."""
    checkpoint = open_checkpoint(folder, strict=options.strict)
    dtype = options.compute_dtype
    plan = plan_checkpoint(checkpoint, options)
    require_fit(plan, checkpoint.config, name)
    adapters, offline = options.adapter_sources, options.offline
    taught = starts_with_harmony(adapters, checkpoint.config, offline=offline)
    for line in list_warnings(checkpoint, learned_harmony=taught):
        LOGGER.warning("%s", line)
    folders = [checkpoint.folder, folder]
    source = next((f for f in folders if (f / TOKENIZER_FILE).is_file()), folder)
    tokenizer: Tokenizer | Path = source
    if options.harmony:
        tokenizer = Tokenizer.open(source)
        tokenizer.require_harmony()
    wire(options.wired, plan)
    loaded, storage = load_planned(checkpoint, plan, dtype=dtype, progress=progress)
    runtime = Runtime(
        loaded,
        config=checkpoint.config,
        tokenizer=tokenizer,
        plan=plan,
        storage=storage,
        context=options.context,
        thread=thread,
        cache=options.cache,
        batch=options.batch,
        dtype=dtype,
        digest=lambda: weights_digest(checkpoint),
        files=lambda limits: PromptFiles(
            limits.root,
            cache_digest(checkpoint, dtype),
            checkpoint.config,
            dtype,
            limits.disk_bytes,
            min_tokens=MIN_FILE_TOKENS,
        ),
    )
    load_adapters(runtime, adapters, offline=offline)
    return runtime
