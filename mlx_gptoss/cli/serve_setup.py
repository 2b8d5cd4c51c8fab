"""Turn the options of `serve` into models by name, a key, hosts and a log."""

import logging
import os
import re
import secrets
import socket
import stat
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.api.settings import LOOPBACK_HOSTS
from mlx_gptoss.checkpoint.hub import is_path
from mlx_gptoss.cli.input_lines import text_expected
from mlx_gptoss.cli.options import named_model
from mlx_gptoss.cli.services import Services
from mlx_gptoss.cli.terminal import note
from mlx_gptoss.errors import GptOssError, MemoryBudgetError
from mlx_gptoss.server.log_file import LogFile

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.runtime import Runtime
    from mlx_gptoss.engine.scheduler import BatchOptions
    from mlx_gptoss.format.config import ModelConfig
    from mlx_gptoss.memory import Plan
    from mlx_gptoss.server.adapters import AdapterFolder
    from mlx_gptoss.server.model_facts import ModelFacts
    from mlx_gptoss.server.models import ModelSource

KEY_VARIABLE = "MLX_GPTOSS_API_KEY"
KEY_BYTES = 24
NAMED = re.compile(r"([\w.:@-]+)=(.+)", re.DOTALL)
DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)?")
SECONDS = {None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ANYWHERE = ("0.0.0.0", "::")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s*]+")
LOG_LINE = "%(asctime)s %(levelname)s %(message)s"
# They log each request; signed URLs of downloads would give anyone access.
QUIET_LOGGERS = ("uvicorn", "httpx", "httpx2")


class DurationType(click.ParamType):
    """A duration such as `90`, `90s`, `10m` or `2h`, in seconds; `0` if `zero`."""

    name = "duration"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = DURATION.fullmatch(str(value))
        if not found or not (self._zero or float(found[1])):
            return self.fail(f"`{value}` is not a duration: write 90s, 10m or 2h")
        return float(found[1]) * SECONDS[found[2]]


class ReasoningLimit(click.ParamType):
    """`auto`, `off` or a number of tokens."""

    name = "budget"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str | None:
        if value in ("auto", None):
            return "auto"
        if value == "off":
            return None
        if not str(value).isdigit():
            return self.fail(f"`{value}` is not auto, off or a number of tokens")
        return int(str(value))


def sources_of(
    models: Sequence[str],
    options: "LoadOptions",
    services: Services,
    adapter_folder: Path | None = None,
) -> "list[ModelSource]":
    """Name the models, the default first.

    Raises UsageError for a duplicate name, and for adapters of one of several models.
    """
    if options.adapters and len(models) > 1:
        raise click.UsageError(
            "--adapter is for one model: put the adapters of several into the "
            "subfolders of one folder, and give that with --adapters"
        )
    given = [_named(one) for one in models or [None]]
    names = [name for name, _ in given]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(
                f"two models are named `{name}`: write -m NAME=MODEL"
            )
    from mlx_gptoss.server.adapters import AdapterFolder

    folder = None if adapter_folder is None else AdapterFolder(adapter_folder)
    return [_source(name, model, options, services, folder) for name, model in given]


def batch_limits(
    parallel: int | None, queue: int | None, fairness: float | None
) -> "BatchOptions":
    """Return the limits of concurrent requests; None is the library's default."""
    from mlx_gptoss.engine.scheduler import BatchOptions

    limits: dict[str, Any] = {
        "max_running": parallel,
        "max_waiting": queue,
        "fairness": fairness,
    }
    return BatchOptions(**{name: n for name, n in limits.items() if n is not None})


def api_key(given: str | None, *, needed: bool, made: bool) -> str | None:
    """Return the API key from `env:NAME`, a file, or the environment.

    Raises UsageError if there is none and `needed`; generates one if `made`.
    """
    key = _read_key(given) if given else os.environ.get(KEY_VARIABLE)
    if key is None and made:
        return secrets.token_urlsafe(KEY_BYTES)
    if key is None and needed:
        raise click.UsageError(
            "others can reach this address: set a key with --api-key FILE or "
            f"${KEY_VARIABLE}"
        )
    if key is not None and not (key.isascii() and key.isprintable() and key.strip()):
        raise click.UsageError("the API key must be printable ASCII, and not empty")
    return key


def is_loopback(host: str) -> bool:
    return host in LOOPBACK


def hosts_of(host: str, allowed: Sequence[str]) -> tuple[str, ...]:
    """Return the host names under which a server at `host` may be reached."""
    own: list[str] = []
    if host in ANYWHERE:
        name = socket.gethostname().lower()
        own = [name, f"{name.removesuffix('.local')}.local"]
    elif not is_loopback(host):
        own = [f"[{host}]" if ":" in host else host.lower()]
    return (*LOOPBACK_HOSTS, *own, *(name.lower() for name in allowed))


def checked_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """Return valid web origins. Raises UsageError for others."""
    for origin in origins:
        if not ORIGIN.fullmatch(origin):
            raise click.UsageError(
                f"`{origin}` is not an origin: write it like https://app.example, "
                "without a path or `*`"
            )
    return tuple(origins)


def start_log(path: Path | None) -> None:
    """Log to a private file, or to stderr."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        handler = LogFile(path, warn=note)
    logging.basicConfig(level=logging.INFO, format=LOG_LINE, handlers=[handler])
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _read_key(given: str) -> str:
    if given.startswith("env:"):
        name = given.removeprefix("env:")
        if name not in os.environ:
            raise click.UsageError(f"--api-key: ${name} is not set")
        return os.environ[name].strip()
    path = Path(given)
    if not path.is_file():
        raise click.UsageError(
            f"--api-key: there is no file `{given}`: give a file, or env:NAME (a key "
            "on the command line could be read by everyone on this machine)"
        )
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        note(f"others can read `{given}`: chmod 600 it")
    with text_expected(f"`{given}`"):
        return path.read_text("utf-8").strip()


def _named(given: str | None) -> tuple[str, str]:
    """Return the public name of a model, given or derived, and its path or id."""
    found = NAMED.fullmatch(given or "")
    if found and not Path(found[0]).exists():
        return found[1], named_model(found[2])
    name = named_model(given)
    return (Path(name).expanduser().resolve().name if is_path(name) else name), name


def _source(
    name: str,
    model: str,
    options: "LoadOptions",
    services: Services,
    adapters: "AdapterFolder | None",
) -> "ModelSource":
    from mlx_gptoss.engine.planned_load import plan_checkpoint
    from mlx_gptoss.server.models import ModelSource

    named = [source.name for source in options.adapter_sources]

    def plan() -> "Plan":
        from mlx_gptoss.checkpoint import open_checkpoint

        folder = services.fetch(model, offline=options.offline)
        checkpoint = open_checkpoint(folder, strict=options.strict)
        return plan_checkpoint(checkpoint, with_folder(checkpoint.config))

    def facts() -> "ModelFacts | None":
        from mlx_gptoss.checkpoint import open_checkpoint
        from mlx_gptoss.server.model_facts import facts_of_checkpoint

        try:
            folder = services.fetch(model, offline=True)
            return facts_of_checkpoint(open_checkpoint(folder, strict=options.strict))
        except (GptOssError, OSError):  # not on this machine, or not whole
            return None

    def load() -> "Runtime":
        from mlx_gptoss.checkpoint import open_checkpoint

        try:
            wanted = options
            if adapters is not None:
                folder = services.find(model, options)
                config = open_checkpoint(folder, strict=options.strict).config
                wanted = with_folder(config)
            runtime = services.open(model, wanted)
        except (
            MemoryBudgetError
        ) as error:  # clients read it, so it must not show local paths
            raise MemoryBudgetError(str(error).replace(model, name)) from error
        if wanted.adapters:
            runtime.use_adapter(None)  # requests choose: MODEL is the model itself
        return runtime

    def with_folder(config: "ModelConfig") -> "LoadOptions":
        """Add the adapters in the folder that fit the model."""
        found = {} if adapters is None else adapters.usable(config)
        more = [f"{key}={path}" for key, path in found.items() if key not in named]
        return replace(options, adapters=(*options.adapters, *more))

    return ModelSource(name, load, plan, named, adapters, facts)
