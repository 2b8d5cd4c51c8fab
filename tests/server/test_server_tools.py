"""Tools of a request are parsed and checked once, never on the event loop."""

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import pytest

from mlx_gptoss.api import options
from mlx_gptoss.api.responses import initial_reply, tool_descriptions
from mlx_gptoss.api.wire import RequestModel
from mlx_gptoss.harmony import openai_chat
from mlx_gptoss.harmony.messages import ToolDescription
from tests.support.answering_app import obliging
from tests.support.serving import WEATHER, asked

FUNCTION = WEATHER["function"]
USER = {"role": "user", "content": "Is it?"}
VALIDATED = RequestModel._yield_to_other_threads.__code__  # runs for each part
READ = openai_chat.read_tool.__code__
DESCRIBED = ToolDescription.__post_init__.__code__
CHECKED = options.check_schema.__code__
REQUESTS: dict[str, tuple[dict[str, Any], set[CodeType]]] = {
    "/v1/chat/completions": (
        {"messages": [USER], "tools": [WEATHER]},
        {VALIDATED, READ, DESCRIBED, CHECKED},
    ),
    "/v1/responses": (
        {"input": [USER], "tools": [{"type": "function", **FUNCTION}]},
        {
            VALIDATED,
            tool_descriptions.read_function.__code__,
            initial_reply.echo_tool.__code__,
            CHECKED,
        },
    ),
    "/v1/messages": (
        {
            "messages": [USER],
            "max_tokens": 100,
            "tools": [{"name": "get_weather", "input_schema": FUNCTION["parameters"]}],
        },
        {VALIDATED, DESCRIBED, CHECKED},
    ),
}
TOOL_TYPES = {"ChatTool", "ResponsesTool", "AnthropicTool"}


@contextmanager
def counted(codes: set[CodeType]) -> Iterator[Counter[tuple[str, bool]]]:
    """Count calls of functions by name, and whether the event loop ran them."""
    calls: Counter[tuple[str, bool]] = Counter()
    loop_thread = threading.current_thread()

    def count(frame: FrameType, event: str, argument: object) -> None:
        if event != "call" or frame.f_code not in codes:
            return
        model = type(frame.f_locals.get("self")).__name__
        if frame.f_code is VALIDATED and model not in TOOL_TYPES:
            return
        on_loop = threading.current_thread() is loop_thread
        calls[frame.f_code.co_name, on_loop] += 1

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.mark.parametrize("path", REQUESTS)
def test_tools_are_parsed_and_checked_once_in_a_worker_thread(path: str) -> None:
    body, codes = REQUESTS[path]

    async def post() -> int:
        async with asked(runtime) as client:
            return (await client.post(path, json=body)).status_code

    with obliging() as runtime, counted(codes) as calls:
        status = asyncio.run(post())

    expected = {(code.co_name, False): 1 for code in codes}
    assert (status, dict(calls)) == (200, expected)
