"""Read the header of a message: role, channel, recipient, content type.

    assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>
    assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>

Knows the words a header may hold and what models write instead; nothing of the
stream around it (`recover.py` reads headers that never ended). Nothing here raises.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mlx_gptoss.harmony.messages import (
    CHANNELS,
    CONSTRAIN,
    FUNCTION_PREFIX,
    ROLES,
)
from mlx_gptoss.harmony.parse.tool_names import OfferedTools, is_tool_name

CHANNEL = "<|channel|>"
NOT_TOOLS = ("assistant", "user", "all", "system", "developer")
CONTENT_TYPES = ("json", "code", "text", "json_object", "application/json")
CONTENT_TYPE = re.compile(r"[A-Za-z][\w/+.-]*")  # what a content type looks like
SHORTEST_CUT_NAME = 3  # `fin` is taken for `final`, `fi` is not
LONGEST_NAME = 5  # words of a tool name with spaces


@dataclass
class HeaderPart:
    """A stretch of a header: what follows `mark`, token by token, with its place."""

    marker: str | None
    tokens: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return b"".join(data for _, data in self.tokens).decode("utf-8", "replace")

    def tail(self, body: str) -> list[int]:
        """The places of the tokens that `body`, the end of this part, came from."""
        start = len(self.text) - len(body)
        return [place for place, _, stop in self._spans() if stop > start]

    def whole_tokens(self, body: str) -> str:
        """`body`, the end of this part, from the start of the token it begins in.

        White space at that token's start is left out.
        """
        text = self.text
        start = len(text) - len(body)
        for _, first, stop in self._spans():
            if first < start < stop and text[first:start].strip():
                return text[first:]
        return body

    def _spans(self) -> Iterator[tuple[int, int, int]]:
        """Place of each token, and the characters it touches: first, last plus 1."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        read = 0
        for place, data in self.tokens:
            first = read
            read += len(decoder.decode(data))
            begun = bool(decoder.getstate()[0])  # part of a character
            yield place, first, read + begun


@dataclass
class Header:
    """What a header says; `repairs` are (kind, detail) of what was put right."""

    role: str | None
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    unnamed_channel: bool = False  # a mark without a name
    unknown_author: str = ""  # stands where the role should: the name of a tool?
    repairs: list[tuple[str, str]] = field(default_factory=list)

    def add_repair(self, kind: str, detail: str) -> None:
        self.repairs.append((kind, detail))


def read_header(
    parts: Sequence[HeaderPart], role: str | None, offered: OfferedTools
) -> Header:
    """Read a header that `<|message|>` closed; `role` if the prompt gave it."""
    header = Header(role)
    loose: list[str] = []
    for part in parts:
        words = part.text.split()
        if part.marker is None:
            words = _take_role(header, words)
        elif part.marker == CHANNEL:
            words = _take_channel(header, words)
        else:
            header.content_type = CONSTRAIN + "".join(words[:1])
            words = words[1:]
        loose += take_words(header, words, offered)
    _settle_role(header, loose)
    if loose:
        header.add_repair("header-words", f"`{' '.join(loose)}` was ignored")
    if header.channel is None and header.unnamed_channel:
        header.channel = "commentary" if header.recipient else "final"
    elif header.channel is None and header.role == "assistant":
        header.add_repair("missing-channel", "the message has no channel")
    return header


def _settle_role(header: Header, loose: list[str]) -> None:
    """Decide what the recipient tells of the role, and the other way round."""
    if header.unknown_author in loose and header.recipient == "assistant":
        header.role, header.name = "tool", header.unknown_author
        loose.remove(header.unknown_author)
    if header.role is None:
        header.role = "assistant"
        header.add_repair("missing-role", "the message was taken for the assistant's")
    if header.role == "assistant" and header.recipient in NOT_TOOLS:
        header.add_repair("no-tool", f"recipient `{header.recipient}` was ignored")
        header.recipient = None


def _take_role(header: Header, words: list[str]) -> list[str]:
    """Take the author off the front of the role part; the rest is returned."""
    if not words:
        return words
    first, rest = words[0], words[1:]
    if header.role is not None:  # given by the prompt: it may be said again
        return rest if first == header.role else words
    role, _, name = first.partition(":")
    if role in ROLES:
        header.role, header.name = role, name or None
        return rest
    if is_tool_name(first):
        header.role, header.name = "tool", first
        return rest
    if not first.startswith("to="):
        header.unknown_author = first
    header.role = "assistant"
    if first.startswith("assistant"):
        header.add_repair("role-runs-on", f"`{first}` was taken apart")
        return [first.removeprefix("assistant"), *rest]
    return words


def _take_channel(header: Header, words: list[str]) -> list[str]:
    """Take the channel off the front of a channel part; the last known one wins."""
    if not words or words[0].startswith("to="):
        if header.channel is None:
            header.add_repair("empty-channel", "the channel has no name")
            header.unnamed_channel = True
        return words
    channel, rest = match_channel(words[0])
    if channel is None:
        if header.channel is None:
            header.channel = words[0]
            header.add_repair(
                "unknown-channel", f"channel `{words[0]}` was taken for final"
            )
        return words[1:]
    if header.channel is not None:
        header.add_repair("second-channel", f"`{channel}` replaced `{header.channel}`")
    if channel != words[0]:
        header.add_repair("channel-name", f"`{words[0]}` was taken for `{channel}`")
    header.channel = channel
    return [rest, *words[1:]] if rest else words[1:]


def match_channel(word: str) -> tuple[str | None, str]:
    """The channel that `word` begins with or begins, and what runs on behind it."""
    said = word.lower()
    for channel in CHANNELS:
        if said.startswith(channel):
            return channel, word[len(channel) :]
    if len(word) >= SHORTEST_CUT_NAME:
        for channel in CHANNELS:
            if channel.startswith(said):
                return channel, ""
    return None, ""


def take_words(header: Header, words: list[str], offered: OfferedTools) -> list[str]:
    """Take recipient and content type; return the words that mean nothing."""
    loose = []
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if word.startswith("to="):
            after = words[place : place + LONGEST_NAME]
            name, used = _recipient(word, after, offered)
            place += used
            if not name:
                header.add_repair("no-tool", "an empty recipient was ignored")
            if name and header.recipient not in (None, name):
                header.add_repair(
                    "second-recipient", f"`{header.recipient}` was replaced"
                )
            header.recipient = name or header.recipient
        elif word in CONTENT_TYPES:
            header.content_type = header.content_type or word
        elif header.recipient is None and _names_a_tool(word, offered):
            header.recipient = word
        elif header.channel is None and word in CHANNELS:
            header.channel = word
            header.add_repair(
                "missing-channel-mark", f"`{word}` was taken for the channel"
            )
        elif _is_last_of_addressed(header, place, words) and CONTENT_TYPE.fullmatch(
            word
        ):
            header.content_type = word
        else:
            loose.append(word)
    return loose


def _is_last_of_addressed(header: Header, place: int, words: list[str]) -> bool:
    by_a_tool = header.role == "tool" or header.unknown_author
    addressed = header.recipient and (by_a_tool or header.recipient not in NOT_TOOLS)
    return bool(addressed) and header.content_type is None and place == len(words)


def _recipient(word: str, after: list[str], offered: OfferedTools) -> tuple[str, int]:
    """Read a name behind `to=`, with its spaces if so offered; words used too."""
    name = word.removeprefix("to=")
    used = 0
    if not name and after:
        name, used = after[0], 1
    if offered.find(name) is None:
        for more in range(1, len(after) - used + 1):
            longer = " ".join([name, *after[used : used + more]])
            if offered.find(longer) is not None:
                return longer, used + more
    return name, used


def _names_a_tool(word: str, offered: OfferedTools) -> bool:
    return word.startswith(FUNCTION_PREFIX) or word in offered.names
