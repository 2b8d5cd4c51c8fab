"""`mlx-gptoss serve`: OpenAI's API on this machine."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlx_gptoss.cli import INTERRUPTED
from mlx_gptoss.cli.named_files import calibration_files, named_file
from mlx_gptoss.cli.options import adapter_option, takes_load_options
from mlx_gptoss.cli.serve_options import takes_serve_options
from mlx_gptoss.cli.serve_setup import (
    api_key,
    batch_limits,
    checked_origins,
    hosts_of,
    is_loopback,
    sources_of,
    start_log,
)
from mlx_gptoss.cli.services import Services, pass_services
from mlx_gptoss.cli.storage_options import is_private, keeps_prompts
from mlx_gptoss.cli.tool_options import ToolOptions, takes_tools
from mlx_gptoss.cli.web_page import STORE, open_page, served_source, show_link
from mlx_gptoss.files import config_folder

if TYPE_CHECKING:
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.server.redactor import ServedRedactor

OWNER_ONLY = 0o077  # what is taken from others of every file that is made


@click.command(short_help="Serve OpenAI's and Anthropic's APIs")
@takes_serve_options
@takes_load_options
@adapter_option
@keeps_prompts
@takes_tools
@pass_services
def serve(
    services: Services,
    options: "LoadOptions",
    models: tuple[str, ...],
    tool_options: ToolOptions,
    browse: bool,
    **given: Any,
) -> None:
    """Serve OpenAI's API to programs on this machine, and a page to chat in.

    A request chooses an adapter by the name of the model: MODEL:ADAPTER. The page is
    at the link that is printed; its conversations are those of `mlx-gptoss chat`, and
    only they have the tools of --tools and --mcp.

    \b
    mlx-gptoss serve --open
    mlx-gptoss serve -m openai/gpt-oss-20b
    mlx-gptoss serve -m openai/gpt-oss-20b -a french=./adapters/fr
    curl localhost:8080/v1/models
    """
    from mlx_gptoss.memory.budget import device_budget
    from mlx_gptoss.server.app import create_app
    from mlx_gptoss.server.models import Models
    from mlx_gptoss.server.process import listen, listening_url, serve
    from mlx_gptoss.server.running import registered
    from mlx_gptoss.server.socket_connection import socket_options

    private = is_private() or given["no_store"]
    if private:  # neither answers nor prompts
        given["no_store"], options = True, replace(options, cache=None)
    batch = batch_limits(given["parallel"], given["queue"], given["fairness"])
    options = replace(options, harmony=True, batch=batch)
    settings, place = settings_of(**given), place_of(**given)
    policies = policies_of(**given)
    sources = sources_of(models, options, services, given["adapter_folder"])
    listening = listen(place)
    os.umask(OWNER_ONLY)
    start_log(given["log_file"])
    served = Models(
        sources,
        idle_seconds=given["idle_unload"],
        any_model=given["any_model"],
        budget=device_budget(options.memory).bytes,
    )
    redactor = redactor_of(services, options, given["redact_model"])
    first = sources[0]
    judge = first.name
    if policies is not None:
        judge = policies.model or first.name
        if judge not in served.names:
            raise click.UsageError(f"--policy-model {judge}: no model has that name")
    if not given["lazy"]:
        runtime = first.load()
        served.adopt(first.name, runtime)
        if policies is not None and judge == first.name:
            policies.load_calibrations(runtime)
    ready = {"token": settings.api_key, "model": first.name}
    again = served.refresh_adapters if given["adapter_folder"] else None
    others = replace(options, adapters=())  # adapters belong to the first model
    with (
        open_page(
            services,
            served,
            options,
            tool_options,
            served_source(services, others, given["adapter_folder"]),
            private=private,
            params=settings.sampling,
        ) as page,
        registered(listening_url(listening), [one.name for one in sources]),
    ):
        app = create_app(served, settings, page, policies=policies, redactor=redactor)
        service, shown = app.state.service, show_link(page, browse=browse)
        sockets = socket_options(
            settings.limits, service.body_budget, place.write_seconds
        )
        ended_by = serve(
            app,
            listening,
            place,
            ready,
            service.drain,
            on_hangup=again,
            on_ready=shown,
            sockets=sockets,
        )
    click.get_current_context().exit(INTERRUPTED if ended_by == signal.SIGINT else 0)


def redactor_of(
    services: Services, options: "LoadOptions", model: str | None
) -> "ServedRedactor | None":
    """Load the model that masks private text, if one is named."""
    if model is None:
        return None
    from mlx_gptoss.cli.redact.model import load_redactor
    from mlx_gptoss.server.redactor import ServedRedactor

    name = Path(model).name if Path(model).exists() else model
    return ServedRedactor(name, load_redactor(services, model, options))


def settings_of(
    *,
    host: str,
    uds: Path | None,
    ready_file: Path | None,
    key: str | None,
    no_store: bool,
    log_file: Path | None,
    **given: Any,
) -> Any:
    from mlx_gptoss.api.settings import RequestLimits, ServerSettings
    from mlx_gptoss.engine.sampling_params import SamplingParams

    if no_store and log_file is not None:
        raise click.UsageError("--no-store stores nothing: leave out --log-file")
    local = uds is not None or is_loopback(host)
    return ServerSettings(
        api_key=api_key(key, needed=not local, made=ready_file is not None),
        hosts=None if uds else hosts_of(host, given["allowed_hosts"]),
        any_address=not local,
        origins=checked_origins(given["origins"]),
        limits=RequestLimits(body_bytes=given["max_body"]),
        reasoning_field=given["reasoning_field"],
        reasoning_events=given["reasoning_events"],
        max_reasoning=given["max_reasoning"],
        loop_guard=not given["no_loop_guard"],
        sampling=SamplingParams(temperature=given["temperature"], top_p=given["top_p"]),
        log_prompts=given["log_prompts"],
        ollama=not given["no_ollama"],
        stream_comments=not given["no_comments"],
        store=None if no_store else config_folder() / STORE,
    )


def policies_of(
    *,
    policies: tuple[str, ...],
    guards: tuple[tuple[str, str], ...],
    policy_model: str | None,
    calibrations: tuple[str, ...],
    **_: Any,
) -> Any:
    """Return the policies of the server; None if it has none."""
    from mlx_gptoss.server.policies import ServedPolicies
    from mlx_gptoss.workloads.classify.policy import read_policy

    read = [read_policy(path, name=name) for name, path in map(named_file, policies)]
    found = {policy.name: policy for policy in read}
    if len(found) < len(read):
        raise click.UsageError("two policies have one name: write --policy NAME=FILE")
    for name in (guarded for _part, guarded in guards):
        if name not in found:
            raise click.UsageError(
                f"--guard input {name}: there is no such policy: add --policy "
                f"{name}=FILE"
            )
    if not found:
        if policy_model is not None or calibrations:
            raise click.UsageError("give --policy, too: there is nothing to judge by")
        return None
    names = tuple(dict.fromkeys(guarded for _part, guarded in guards))
    fits = calibration_files(calibrations, list(found))
    return ServedPolicies(found, names, policy_model, fits)


def place_of(
    *,
    host: str,
    port: int,
    uds: Path | None,
    ready_file: Path | None,
    exit_with_parent: bool,
    drain: float,
    **_: Any,
) -> Any:
    from mlx_gptoss.server.process import ServeOptions

    return ServeOptions(
        host=host,
        port=port,
        uds=uds,
        ready_file=ready_file,
        exit_with_parent=exit_with_parent,
        drain_seconds=drain,
    )
