"""Build the system and developer messages that precede every conversation.

They are rebuilt for each prompt, so that settings may change between turns.
"""

from collections.abc import Sequence

from mlx_gptoss.harmony.constrain.answer_format import AnswerFormat
from mlx_gptoss.harmony.messages import (
    Message,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    developer,
)


def system_messages(
    *,
    identity: str,
    date: str,
    effort: str,
    namespaces: tuple[ToolNamespace, ...],
    instructions: str | None,
    functions: Sequence[ToolDescription],
    response_format: AnswerFormat | None,
) -> list[Message]:
    """Return the system message, and a developer message if there is content for one.

    `date` "" leaves the date out. `namespaces` are the built-in tools, `functions`
    the others.
    """
    content = SystemContent(
        identity=identity,
        conversation_date=date or None,
        effort=effort,  # pyright: ignore[reportArgumentType] - it was checked
        namespaces=namespaces,
    )
    messages = [Message("system", content)]
    shown = response_format.prompt_format if response_format else None
    formats = [shown] if shown else []
    if instructions or functions or formats:
        messages.append(
            developer(instructions, tools=functions, response_formats=formats)
        )
    return messages
