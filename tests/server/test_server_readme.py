"""The README of the server states its routes, options and limits."""

import re
from dataclasses import fields
from pathlib import Path

from fastapi.routing import APIRoute

from mlx_gptoss.api.settings import RequestLimits
from mlx_gptoss.cli.agents import agents
from mlx_gptoss.cli.chat import chat
from mlx_gptoss.cli.serve import serve
from mlx_gptoss.server.app import OLLAMA_ROUTERS, ROUTERS

ROOT = Path(__file__).resolve().parents[2]
SUITES = r"(?s)```sh\n.*?```"  # commands of third-party programs
TEXT = (ROOT / "mlx_gptoss" / "server" / "README.md").read_text()


def test_every_route_is_named() -> None:
    paths = {
        route.path.split("{")[0].rstrip("/")
        for router in (*ROUTERS, *OLLAMA_ROUTERS)
        for route in router.routes
        if isinstance(route, APIRoute) and route.include_in_schema
    }
    assert [path for path in sorted(paths) if path not in TEXT] == []


def test_every_option_that_is_named_exists() -> None:
    commands = (serve, chat, *agents.commands.values())
    known = {name for one in commands for option in one.params for name in option.opts}
    text = re.sub(SUITES, "", TEXT)

    assert set(re.findall(r"--[a-z]+(?:-[a-z]+)*", text)) <= known


def test_the_limits_are_those_of_the_code() -> None:
    limits = RequestLimits()
    bodies = limits.bodies * limits.body_bytes // 2**20
    text = " ".join(TEXT.split())
    for words in (
        f"a body of {limits.body_bytes // 2**20} MiB",
        f"within {limits.body_seconds:.0f} s",
        f"{bodies} MiB for the bodies of all requests",
        f"{limits.messages:,} messages",
        f"{limits.tools} tools, {limits.values:,} JSON values",
        f"schemas {limits.schema_depth} deep and {limits.schema_bytes // 2**10} KiB",
        f"{limits.socket_waiting} may wait on a connection, which lasts an hour",
        f"{limits.choices} choices, {limits.prompts} raw prompts, {limits.stops} stop",
        f"{limits.prompt_logprobs:,} log-probabilities of prompts",
    ):
        assert words in text, words
    assert limits.socket_seconds == 3600
    assert len(fields(RequestLimits)) == 16
