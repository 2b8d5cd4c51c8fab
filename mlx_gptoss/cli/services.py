"""The parts of the package that commands use, replaceable in one place.

    CliRunner().invoke(cli, ["chat"], obj=Services(load=fake_load))

runs a command with a fake: no patching, no weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.checkpoint.hub import Hub, LocalModel, ModelCheck
from mlx_gptoss.cli.progress import ByteProgress, DownloadProgress
from mlx_gptoss.cli.terminal import note

if TYPE_CHECKING:
    from mlx_gptoss.chat import Chat
    from mlx_gptoss.chat.sessions import Sessions
    from mlx_gptoss.checkpoint.tokenizer import Tokenizer
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.runtime import Runtime
    from mlx_gptoss.engine.sampling_params import SamplingParams
    from mlx_gptoss.memory import Budget, Machine
    from mlx_gptoss.memory.saved_probe import Probe


def _load(model: str, **options: Any) -> "Runtime":
    from mlx_gptoss.engine.load import load

    return load(model, **options)


def _chat(runtime: "Runtime", **options: Any) -> "Chat":
    from mlx_gptoss.chat import Chat

    return Chat(runtime, **options)


def _sessions() -> "Sessions":
    from mlx_gptoss.chat.sessions import Sessions

    return Sessions.open(say=note)


def _forget_prompts() -> int:
    from mlx_gptoss.engine.prompt_cache import clear_files

    return clear_files()


def _shrink_prompts(most: int) -> int:
    from mlx_gptoss.engine.prompt_cache import shrink_files

    return shrink_files(most)


def _device() -> "tuple[Machine, Budget]":
    from mlx_gptoss.memory import device_budget
    from mlx_gptoss.memory.saved_probe import describe_this_machine

    return describe_this_machine(), device_budget()


def _probe(folder: Path | None, **options: Any) -> "Probe":
    from mlx_gptoss.diagnostics.probe import probe

    return probe(folder, **options)


@dataclass(frozen=True)
class Services:
    """The parts a command uses: `load`, `Chat`, saved sessions, and the Hub."""

    load: Callable[..., Any] = _load
    chat: Callable[..., Any] = _chat
    sessions: Callable[[], "Sessions"] = _sessions
    forget_prompts: Callable[[], int] = _forget_prompts
    shrink_prompts: Callable[[int], int] = _shrink_prompts
    device: "Callable[[], tuple[Machine, Budget]]" = _device
    probe: "Callable[..., Probe]" = _probe
    hub: Hub = field(default_factory=Hub)

    def list_models(self) -> list[LocalModel]:
        """List the demo, the models of the Hub's cache, and those in folders."""
        from mlx_gptoss.cli.model_folders import list_folders

        return [*self.hub.list_models(), *list_folders()]

    def open(self, model: str, options: "LoadOptions") -> "Runtime":
        """Load a model with its adapters, downloading them if necessary."""
        self.find(model, options)
        self.find_adapters(options)
        with ByteProgress(f"Loading {model}") as progress:
            return self.load(model, options=options, progress=progress)

    def find(self, model: str, options: "LoadOptions") -> Path:
        """Return the folder of a model, downloading it if `options` allow loading."""
        from mlx_gptoss.engine.planned_load import download_check

        fits = download_check(model, options)
        return self.fetch(model, offline=options.offline, check=fits)

    def find_adapters(self, options: "LoadOptions") -> None:
        """Download the adapters of `options` that are not on this machine."""
        from mlx_gptoss.checkpoint.hub.adapters import resolve_adapter

        for source in options.adapter_sources:
            with DownloadProgress(source.place) as shown:
                resolve_adapter(
                    source.place,
                    hub=self.hub,
                    offline=options.offline,
                    progress=shown,
                    notify=shown.say,
                )

    def tokenizer(self, model: str) -> "Tokenizer":
        """Open the tokenizer of a local model, without loading the model."""
        from mlx_gptoss.checkpoint.tokenizer import Tokenizer

        tokenizer = Tokenizer.open(self.fetch(model, offline=True))
        tokenizer.require_harmony()
        return tokenizer

    def fetch(
        self, model: str, *, offline: bool, check: ModelCheck | None = None
    ) -> Path:
        """Return the folder of a model, downloading it if necessary."""
        with DownloadProgress(model) as progress:
            return self.hub.resolve(
                model,
                offline=offline,
                progress=progress,
                check=check,
                notify=progress.say,
            )

    def fetch_source(self, model: str, *, offline: bool) -> Path:
        """Return the folder or the GGUF file of a model to convert."""
        from mlx_gptoss.checkpoint.hub.errors import GgufOnlyError
        from mlx_gptoss.checkpoint.hub.folders import fetch_folder, split_folder
        from mlx_gptoss.checkpoint.hub.gguf import (
            fetch_gguf,
            find_cached_gguf,
            split_name,
        )

        repo, folder = split_folder(model)
        if folder is not None:
            with DownloadProgress(model) as shown:
                return fetch_folder(
                    self.hub,
                    repo,
                    folder,
                    offline=offline,
                    progress=shown,
                    notify=shown.say,
                )
        repo, name = split_name(model)
        is_gguf = name is not None or find_cached_gguf(self.hub, repo, None) is not None
        with DownloadProgress(model) as shown:
            if not is_gguf:
                try:
                    return self.hub.resolve(
                        model, offline=offline, progress=shown, notify=shown.say
                    )
                except GgufOnlyError:
                    name = None  # the repository's only GGUF file
            return fetch_gguf(
                self.hub, repo, name, offline=offline, progress=shown, notify=shown.say
            )

    def start_chat(
        self,
        runtime: "Runtime",
        *,
        effort: str,
        system: str | None,
        params: "SamplingParams",
        **more: Any,
    ) -> "Chat":
        """Start a conversation; `more` is passed to Chat."""
        chat = self.chat(runtime, effort=effort, system=system, params=params, **more)
        note_unenforced(chat)
        return chat

    def resume_chat(
        self, runtime: "Runtime", data: Mapping[str, Any], **options: Any
    ) -> "Chat":
        """Resume a saved conversation; `options` are passed to Chat."""
        from mlx_gptoss.chat import Chat

        chat = Chat.from_json(runtime, data, **options)
        note_unenforced(chat)
        return chat


def note_unenforced(chat: "Chat") -> None:
    """Note on stderr which parts of the schemas are not enforced."""
    for line in chat.unenforced:
        note(f"({line})")


def pass_services(function: Callable[..., Any]) -> Callable[..., Any]:
    """Pass `services` to a command as its first argument."""

    @click.pass_context
    @wraps(function)
    def wrapper(ctx: click.Context, *args: Any, **options: Any) -> Any:
        services = ctx.find_object(Services) or Services()
        return function(services, *args, **options)

    return wrapper
