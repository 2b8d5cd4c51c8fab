"""What stands before a conversation: the system message, and the developer's.

Made anew for each prompt from the settings of a chat, so that these may change.
"""

from mlx_gptoss.chat.calls import Toolbox
from mlx_gptoss.harmony.constrain import Constraints
from mlx_gptoss.harmony.messages import Message, SystemContent, developer


def opening(
    toolbox: Toolbox,
    constraints: Constraints,
    *,
    effort: str,
    system: str | None,
    identity: str,
    date: str,
) -> list[Message]:
    """Build both; without instructions, tools and a format to tell of, only one."""
    content = SystemContent(
        identity=identity,
        conversation_date=date or None,
        effort=effort,  # pyright: ignore[reportArgumentType] - it is checked there
        namespaces=toolbox.namespaces,
    )
    messages = [Message("system", content)]
    told = constraints.response_format
    formats = [told.shown] if told and told.shown else []
    if system or toolbox.functions or formats:
        messages.append(
            developer(system, tools=toolbox.functions, response_formats=formats)
        )
    return messages
