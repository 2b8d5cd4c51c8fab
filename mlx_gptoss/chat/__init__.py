"""A conversation: history, tools, reasoning effort; one class for CLI, server, apps.

    chat = Chat(runtime, effort="low", tools=[get_weather])
    for event in chat.send("Is it raining in Paris?"):
        ...    # Reasoning | Preamble | Answer | ToolCall | ToolResult | Done

chat.py      the history and what can be done to it; history.py finds turns in it
turn.py      the loop from a question to a Done
calls.py     the tools, and the calls that wait for their results
claim.py     one answer at a time
opening.py   the system and developer messages
saved.py     all of it as data, and read back
"""

from mlx_gptoss.chat.calls import Call
from mlx_gptoss.chat.chat import Chat

__all__ = ["Call", "Chat"]
