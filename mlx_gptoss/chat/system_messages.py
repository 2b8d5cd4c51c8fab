"""What stands before a conversation: the system message, and the developer's.

Made anew for each prompt from the settings of a chat, so that these may change.
"""

from typing import TYPE_CHECKING

from mlx_gptoss.harmony.messages import Message, SystemContent, developer

if TYPE_CHECKING:
    from mlx_gptoss.chat.chat import Chat


def system_messages(chat: "Chat") -> list[Message]:
    """Build both; without instructions, tools and a format to tell of, only one."""
    content = SystemContent(
        identity=chat.identity,
        conversation_date=chat.date or None,
        effort=chat.effort,  # pyright: ignore[reportArgumentType] - it was checked
        namespaces=chat.namespaces,
    )
    messages = [Message("system", content)]
    told = chat.constraints.response_format
    formats = [told.prompt_format] if told and told.prompt_format else []
    if chat.system or chat.functions or formats:
        messages.append(
            developer(chat.system, tools=chat.functions, response_formats=formats)
        )
    return messages
