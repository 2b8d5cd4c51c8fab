"""Agents of libraries that end by a model's own doing, over a model that does so.

`pip install smolagents[openai] haystack-ai` in an environment of their own, then
`pytest -m soak tests/server/test_clients_programs.py`. Where one is missing it is
skipped. The demo cannot follow these agents' prompts, so a scripted model does.
"""

from collections.abc import Iterator
from typing import Annotated, Any

import pytest

from mlx_gptoss.api.settings import ServerSettings
from tests.support.cooperative import SAID, TEMPERATURE, cooperate
from tests.support.live import Live, live
from tests.support.prompted import prompted

pytestmark = pytest.mark.soak

ASK = "What is the weather in Oslo?"
STEPS = 4


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with (
        prompted(cooperate, context=131_072) as runtime,
        live(runtime, ServerSettings()) as server,
    ):
        yield server


def test_an_agent_of_smolagents_ends_by_its_own_tool(server: Live) -> None:
    smolagents: Any = pytest.importorskip("smolagents")

    def get_weather(city: str) -> str:
        """Gets the weather for a city.

        Args:
            city: the city
        """
        return TEMPERATURE

    model = smolagents.OpenAIServerModel(
        "demo", api_base=f"{server.url}/v1", api_key="none"
    )
    agent = smolagents.ToolCallingAgent(
        tools=[smolagents.tool(get_weather)], model=model, max_steps=STEPS
    )
    result = agent.run(ASK, return_full_result=True)
    assert (result.output, result.state) == (SAID, "success")


@pytest.mark.parametrize(
    "kind", ["OpenAIChatGenerator", "OpenAIResponsesChatGenerator"]
)
def test_an_agent_of_haystack_answers_from_its_tool(server: Live, kind: str) -> None:
    pytest.importorskip("haystack")
    chat: Any = pytest.importorskip("haystack.components.generators.chat")
    agents: Any = pytest.importorskip("haystack.components.agents")
    classes: Any = pytest.importorskip("haystack.dataclasses")
    tools: Any = pytest.importorskip("haystack.tools")
    utils: Any = pytest.importorskip("haystack.utils")

    def get_weather(city: Annotated[str, "the city"]) -> str:
        """Gets the weather for a city."""
        return TEMPERATURE

    generator = getattr(chat, kind)(
        api_key=utils.Secret.from_token("none"),
        model="demo",
        api_base_url=f"{server.url}/v1",
    )
    question = classes.ChatMessage.from_user(ASK)
    [reply] = generator.run([question])["replies"]
    assert reply.text == "Yes, it is."
    agent = agents.Agent(
        chat_generator=generator, tools=[tools.tool(get_weather)], max_agent_steps=STEPS
    )
    assert agent.run(messages=[question])["last_message"].text == SAID
