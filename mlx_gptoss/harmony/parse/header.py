"""Parse the header of a message: role, channel, recipient, content type.

    assistant to=functions.f<|channel|>commentary <|constrain|>json<|message|>
    assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>

Knows the words a header may hold and what models write instead, but not the stream
around it; `recover.py` parses headers that never ended. Never raises.
"""

import codecs
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mlx_gptoss.harmony.messages import CHANNELS, FUNCTION_PREFIX, ROLES
from mlx_gptoss.harmony.parse.tool_names import OfferedRecipients, is_tool_name
from mlx_gptoss.harmony.special_tokens import CHANNEL, CONSTRAIN

NOT_TOOLS = ("assistant", "user", "all", "system", "developer")
CONTENT_TYPES = ("json", "code", "text", "json_object", "application/json")
CONTENT_TYPE = re.compile(r"[A-Za-z][\w/+.-]*")  # the form of a content type
SHORTEST_CUT_NAME = 3  # `fin` is taken for `final`, `fi` is not
LONGEST_NAME = 5  # words in a tool name with spaces


@dataclass
class HeaderPart:
    """The tokens of a header behind the special token `marker`, as (index, bytes)."""

    marker: str | None
    tokens: list[tuple[int, bytes]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return b"".join(data for _, data in self.tokens).decode("utf-8", "replace")

    def tail(self, body: str) -> list[int]:
        """Return the indices of the tokens of `body`, which is the end of this part."""
        start = len(self.text) - len(body)
        return [index for index, _, stop in self._spans() if stop > start]

    def whole_tokens(self, body: str) -> str:
        """Extend `body`, the end of this part, to the start of its first token.

        White space at the start of that token is left out.
        """
        text = self.text
        start = len(text) - len(body)
        for _, first, stop in self._spans():
            if first < start < stop and text[first:start].strip():
                return text[first:]
        return body

    def _spans(self) -> Iterator[tuple[int, int, int]]:
        """Yield each token's index and the range of characters it touches."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        count = 0
        for index, data in self.tokens:
            first = count
            count += len(decoder.decode(data))
            is_partial = bool(decoder.getstate()[0])  # ends within a character
            yield index, first, count + is_partial


@dataclass
class Header:
    """The fields of a header; `repairs` are (kind, detail) of what was corrected."""

    role: str | None
    name: str | None = None
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    unnamed_channel: bool = False  # a channel token without a name
    unknown_author: str = ""  # in place of the role: perhaps the name of a tool
    repairs: list[tuple[str, str]] = field(default_factory=list)

    def add_repair(self, kind: str, detail: str) -> None:
        self.repairs.append((kind, detail))


def read_header(
    parts: Sequence[HeaderPart], role: str | None, offered: OfferedRecipients
) -> Header:
    """Parse a header that `<|message|>` closed; pass `role` if the prompt gave it."""
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
    """Reconcile role and recipient."""
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
    """Take the author off the front of the role part; return the other words."""
    if not words:
        return words
    first, rest = words[0], words[1:]
    if header.role is not None:  # given by the prompt, perhaps repeated
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
    """Take the channel off the front of a channel part; the last known one counts."""
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
    """Find a channel that `word` starts with or abbreviates, and the rest."""
    lowered = word.lower()
    for channel in CHANNELS:
        if lowered.startswith(channel):
            return channel, word[len(channel) :]
    if len(word) >= SHORTEST_CUT_NAME:
        for channel in CHANNELS:
            if channel.startswith(lowered):
                return channel, ""
    return None, ""


def take_words(
    header: Header, words: list[str], offered: OfferedRecipients
) -> list[str]:
    """Take recipient and content type; return the words left over."""
    loose = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word.startswith("to="):
            after = words[at : at + LONGEST_NAME]
            name, used = _recipient(word, after, offered)
            at += used
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
        elif _is_last_of_addressed(header, at, words) and CONTENT_TYPE.fullmatch(word):
            header.content_type = word
        else:
            loose.append(word)
    return loose


def _is_last_of_addressed(header: Header, at: int, words: list[str]) -> bool:
    by_a_tool = header.role == "tool" or header.unknown_author
    addressed = header.recipient and (by_a_tool or header.recipient not in NOT_TOOLS)
    return bool(addressed) and header.content_type is None and at == len(words)


def _recipient(
    word: str, after: list[str], offered: OfferedRecipients
) -> tuple[str, int]:
    """Parse the name behind `to=`; return it and the number of further words in it."""
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


def _names_a_tool(word: str, offered: OfferedRecipients) -> bool:
    return word.startswith(FUNCTION_PREFIX) or word in offered.names
