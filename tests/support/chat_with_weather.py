"""Run `mlx-gptoss chat` with a Python function as a tool.

`python -m tests.support.chat_with_weather`. The function stands for a tool of
an MCP server, which takes seconds to start.
"""

from collections.abc import Mapping
from typing import Any

from mlx_gptoss.chat import Chat
from mlx_gptoss.cli import cli
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.runtime import Runtime


def get_weather(city: str) -> dict[str, Any]:
    """Gets the weather for a city."""
    return {"temperature": 21, "city": city, "sky": "clear"}


class WithWeather(Services):
    """Every chat has the tool too."""

    def start_chat(self, runtime: Runtime, **options: Any) -> Chat:
        return super().start_chat(runtime, **with_weather(options))

    def resume_chat(
        self, runtime: Runtime, data: Mapping[str, Any], **options: Any
    ) -> Chat:
        return super().resume_chat(runtime, data, **with_weather(options))


def with_weather(options: dict[str, Any]) -> dict[str, Any]:
    return options | {"tools": [*options["tools"], get_weather]}


if __name__ == "__main__":
    cli(obj=WithWeather())
