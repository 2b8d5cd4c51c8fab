"""Conversations with the model: one Chat class for the CLI, the server, and apps.

    chat = Chat(runtime, effort="low", tools=[get_weather])
    for event in chat.send("Is it raining in Paris?"):
        ...    # Reasoning | Preamble | Answer | ToolCall | ToolResult | Done

chat.py               the public class: settings, history, and operations on it
turns.py              its turns, one at a time (answer_lock.py): rounds and tool calls
transcript.py         messages and the calls that wait (calls.py); history.py: edits
prompt.py             the prompt: system_messages.py, then the history (truncate.py)
toolbox.py            run a call; tools/: the tools themselves
saved.py              a chat as JSON; sessions/: chats on disk
conversation_file.py  a conversation from a file, for `mlx-gptoss render`
reasoning_memory.py   reasoning for clients that do not send it back
"""

from mlx_gptoss.chat.calls import Call
from mlx_gptoss.chat.chat import Chat

__all__ = ["Call", "Chat"]
