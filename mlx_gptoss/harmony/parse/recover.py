"""Read a header that ended without `<|message|>`: the model forgot it, or was cut off.

Tells a body that runs on behind its header, and text that never had one, from what
has no sense. Nothing here raises.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_gptoss.harmony.messages import CHANNELS, CONSTRAIN
from mlx_gptoss.harmony.parse.header import (
    CHANNEL,
    Header,
    HeaderPart,
    match_channel,
    read_header,
    take_words,
)
from mlx_gptoss.harmony.parse.tool_names import OfferedTools, is_tool_name

# `to=NAME`, a content type, then what is left: a body without its `<|message|>`
HEADLESS = re.compile(
    r"\s*(?P<to>to=\s*[^\s({]+)?\s*(?P<kind>(?:json|code)\b)?\s*(?P<body>.*)", re.DOTALL
)
RUN_ON_ROLE = re.compile(  # what is left of a whole header when its marks are
    rf"\s*assistant(?P<channel>{'|'.join(CHANNELS)})\s*(?P<body>.*)", re.DOTALL
)
LEADING_ROLE = re.compile(
    r"\s*(?P<role>assistant(?![a-z])|(?:user|system|developer|tool)\b)"
)
CONSTRAINED = re.compile(r"\s*(?P<kind>[A-Za-z_]*)\s*(?P<body>.*)", re.DOTALL)


@dataclass(frozen=True)
class RecoveredMessage:
    """A message whose `<|message|>` never came; without `header` it has no channel."""

    header: Header
    body: str
    headless: bool = False

    def is_truncated(self, role: str | None) -> bool:
        """Tell a header that the limit of tokens cut short from text.

        `role` is the one the prompt gave.
        """
        body = self.body.strip()
        begins_recipient = self.headless and "to=".startswith(body)
        begins_role = self.headless and role is None and " " not in body
        return not body or begins_recipient or begins_role


def recover(
    parts: Sequence[HeaderPart], role: str | None, offered: OfferedTools
) -> RecoveredMessage | None:
    """Read a header that ended without `<|message|>`; None if nothing is in it."""
    if all(part.marker is None for part in parts):
        return _recover_prose(parts[0], role, offered)
    last = parts[-1]
    if last.marker == CHANNEL:
        word = (last.text.split() or [""])[0]
        channel, _ = match_channel(word)
        if channel is None:
            return None
        header = read_header([*parts[:-1], _named(channel)], role, offered)
        rest = last.text.lstrip()[min(len(word), len(channel)) :]
        found = HEADLESS.fullmatch(rest)
        assert found is not None  # every group is optional
        take_words(header, _words(found["to"], found["kind"]), offered)
    else:
        header = read_header(parts[:-1], role, offered)
        found = CONSTRAINED.fullmatch(last.text)
        assert found is not None
        header.content_type = CONSTRAIN + found["kind"]
    body = last.whole_tokens(found["body"])
    if body != found["body"] and last.marker == CONSTRAIN:
        header.content_type = CONSTRAIN
    if not header.recipient and not any(map(str.isalnum, body)):
        return None
    return RecoveredMessage(header, body)


def _named(channel: str) -> HeaderPart:
    return HeaderPart(CHANNEL, [(-1, channel.encode())])


def _recover_prose(
    part: HeaderPart, role: str | None, offered: OfferedTools
) -> RecoveredMessage | None:
    """Tell a bare `to=NAME` from text that stands where a header should be."""
    text = part.text
    header = Header(role or "assistant")
    run_on = RUN_ON_ROLE.fullmatch(text)
    if run_on is not None and header.role == "assistant":
        header.channel = run_on["channel"]
        header.add_repair(
            "role-runs-on", f"`assistant{header.channel}` was taken apart"
        )
        return RecoveredMessage(header, part.whole_tokens(run_on["body"]))
    said = LEADING_ROLE.match(text)
    body = text
    if said is not None and role in (None, said["role"]):
        header.role, body = said["role"], part.whole_tokens(text[said.end() :])
    found = HEADLESS.fullmatch(body)
    assert found is not None
    if found["to"] and not found["body"]:
        take_words(header, _words(found["to"], found["kind"]), offered)
        return RecoveredMessage(header, "")
    if not body.strip() or is_tool_name(body.split()[0]):
        return None
    return RecoveredMessage(header, body, headless=True)


def _words(*groups: str | None) -> list[str]:
    return [word for group in groups if group for word in group.split()]
