"""Recover a header that ended without `<|message|>`: forgotten, or cut off.

Separates a header from a body that runs on behind it, and text that never had a header
from nonsense. Never raises.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_gptoss.harmony.messages import CHANNELS
from mlx_gptoss.harmony.parse.header import (
    Header,
    HeaderPart,
    match_channel,
    read_header,
    take_words,
)
from mlx_gptoss.harmony.parse.tool_names import OfferedRecipients, is_tool_name
from mlx_gptoss.harmony.special_tokens import CHANNEL, CONSTRAIN

# `to=NAME`, a content type, then a body without its `<|message|>`
HEADLESS = re.compile(
    r"\s*(?P<to>to=\s*[^\s({]+)?\s*(?P<kind>(?:json|code)\b)?\s*(?P<body>.*)", re.DOTALL
)
RUN_ON_ROLE = re.compile(  # a header without its special tokens
    rf"\s*assistant(?P<channel>{'|'.join(CHANNELS)})\s*(?P<body>.*)", re.DOTALL
)
LEADING_ROLE = re.compile(
    r"\s*(?P<role>assistant(?![a-z])|(?:user|system|developer|tool)\b)"
)
CONSTRAINED = re.compile(r"\s*(?P<kind>[A-Za-z_]*)\s*(?P<body>.*)", re.DOTALL)


@dataclass(frozen=True)
class RecoveredMessage:
    """A message without `<|message|>`; `headless` if it had no header at all."""

    header: Header
    body: str
    headless: bool = False

    def is_truncated(self, role: str | None) -> bool:
        """Whether this is a header cut short by the token limit, rather than text.

        `role` is the one the prompt gave.
        """
        body = self.body.strip()
        begins_recipient = self.headless and "to=".startswith(body)
        begins_role = self.headless and role is None and " " not in body
        return not body or begins_recipient or begins_role


def recover(
    parts: Sequence[HeaderPart], role: str | None, offered: OfferedRecipients
) -> RecoveredMessage | None:
    """Parse a header that ended without `<|message|>`; None if it holds nothing."""
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
    part: HeaderPart, role: str | None, offered: OfferedRecipients
) -> RecoveredMessage | None:
    """Separate a bare `to=NAME` from text in place of a header."""
    text = part.text
    header = Header(role or "assistant")
    run_on = RUN_ON_ROLE.fullmatch(text)
    if run_on is not None and header.role == "assistant":
        header.channel = run_on["channel"]
        header.add_repair(
            "role-runs-on", f"`assistant{header.channel}` was taken apart"
        )
        return RecoveredMessage(header, part.whole_tokens(run_on["body"]))
    role_match = LEADING_ROLE.match(text)
    body = text
    if role_match is not None and role in (None, role_match["role"]):
        header.role = role_match["role"]
        body = part.whole_tokens(text[role_match.end() :])
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
