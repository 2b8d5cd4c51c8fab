"""Conversations with the model: the same classes for the CLI, the server, and apps.

    chat = Chat(runtime, effort="low", tools=[get_weather])
    reply = chat.ask("Is it raining in Paris?")     # Reply: answer, reasoning, calls
    for event in chat.send("And in Rome?"):
        ...    # Reasoning | Preamble | Answer | ToolCall | ToolResult | Done

chat.py               Chat: ask, send, and the other methods that answer
async_chat.py         AsyncChat: the same for an event loop
answer_all.py         many prompts, answered together
base_chat.py          what chats have in common: settings, history, operations on it
reply.py              a whole turn as one value; reply_format.py: structured answers
turns.py              the turns, one at a time (answer_lock.py): rounds and tool calls
turn_work.py          the work a turn waits for; drive.py: run it, here or in a loop
transcript.py         messages and the calls that wait (calls.py); history.py: edits
prompt.py             the prompt: system_messages.py, then the history (truncate.py)
toolbox.py            run a call; tools/: the tools themselves
saved.py              a chat as JSON; sessions/: chats on disk
conversation_file.py  a conversation from a file, for `mlx-gptoss render`
reasoning_memory.py   reasoning for clients that do not send it back
"""

from mlx_gptoss.chat.async_chat import AsyncChat
from mlx_gptoss.chat.calls import Call
from mlx_gptoss.chat.chat import Chat

__all__ = ["AsyncChat", "Call", "Chat"]
