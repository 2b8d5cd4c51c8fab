"""Two strict judges of sampled turns; neither shares code with our parser.

    faults(ids, tokenizer, tools=["get_weather"])    # [] if all is well-formed

One is OpenAI's parser in strict mode, on the stream as the real vocabulary writes it.
The other is a regular expression over text in which a control token is one private
character: the grammar of a turn as documented, with nothing forgiven. An answer that
was cut off is judged up to its last whole header.
"""

import re
from collections.abc import Sequence

import openai_harmony

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from tests.support.vocabulary import O200k, oracle

NAMES = "<|start|> <|end|> <|message|> <|channel|> <|constrain|> <|call|> <|return|>"
MARKS = {name: chr(0xE000 + n) for n, name in enumerate(NAMES.split())}
START, END, MESSAGE, CHANNEL, CONSTRAIN, CALL, RETURN = MARKS.values()
UNKNOWN = "\uf8ff"  # a control token that Harmony has no use for, or no token at all
PRIVATE = re.compile("[\ue000-\uf8ff]")
CHANNELS = ("analysis", "commentary", "final")
CONTENT_TYPES = (None, "json", "code", "<|constrain|>json")


def marked(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Write ids as text with one private character for each control token."""
    names = {token: name for name, token in tokenizer.specials.items()}
    pieces: list[bytes] = []
    for token in ids:
        data = tokenizer.token_bytes(token)
        if token in names or not data:
            pieces.append(MARKS.get(names.get(token, ""), UNKNOWN).encode())
        else:
            pieces.append(data)
    text, last = "", b""
    for piece in pieces:  # text is decoded between marks, so that none is invented
        if (mark := piece.decode("utf-8", "replace")) in (*MARKS.values(), UNKNOWN):
            text, last = text + without_marks(last) + mark, b""
        else:
            last += piece
    return text + without_marks(last)


def without_marks(data: bytes) -> str:
    return PRIVATE.sub("?", data.decode("utf-8", "replace"))


def turn_pattern(tools: Sequence[str]) -> re.Pattern[str]:
    """Return the grammar of a turn behind `<|start|>assistant`."""
    names = "|".join(re.escape(name) for name in tools) or "(?!)"
    kind = f"(?: json| ?{CONSTRAIN}json)?"
    text = f"[^{''.join(MARKS.values())}{UNKNOWN}]*"
    call = (
        f"(?:{CHANNEL}commentary to=functions\\.(?:{names})"
        f"| to=functions\\.(?:{names}){CHANNEL}commentary){kind}{MESSAGE}{text}"
    )
    aside = f"{CHANNEL}(?:analysis|commentary){MESSAGE}{text}{END}"
    between = f"{START}assistant"
    final = f"{CHANNEL}final{MESSAGE}{text}[{RETURN}{END}]"
    calls = f"{call}(?:{END}{between}{call})*[{CALL}{END}]"
    return re.compile(f"(?:{aside}{between})*(?:{final}|{calls})")


def mended(text: str) -> str:
    """Remove what the token limit cut in two, and close what it left open."""
    start = text.rfind(START)
    if MESSAGE not in text[start + 1 :]:  # a header: nobody can say what it would be
        text = text[: max(start, 0)]
        start = text.rfind(START)
    if not text:
        return ""
    header = text[start + 1 :].partition(MESSAGE)[0]
    text += "" if text.endswith(END) else END
    if "final" in header or "to=" in header:
        return text
    return f"{text}{START}assistant{CHANNEL}final{MESSAGE}{RETURN}"


def faults(
    ids: Sequence[int],
    tokenizer: Tokenizer,
    *,
    tools: Sequence[str] = (),
    cut_off: bool = False,
) -> list[str]:
    """Return the faults of the ids behind `<|start|>assistant`."""
    text = marked(ids, tokenizer)
    if cut_off:
        text = mended(text)
        if not text:
            return []
    found = [] if turn_pattern(tools).fullmatch(text) else ["not the grammar of a turn"]
    return found + openai_faults(text, tools)


def openai_faults(text: str, tools: Sequence[str]) -> list[str]:
    """Return the error of OpenAI's strict parser, or faults that it misses."""
    vocabulary = O200k()
    names = {mark: name for name, mark in MARKS.items()}
    tokens: list[int] = []
    for piece in re.split(f"([{''.join(MARKS.values())}])", text):
        if piece in names:
            tokens.append(vocabulary.special(names[piece]))
        elif piece:
            tokens += vocabulary.encode(piece)
    try:
        messages = oracle().parse_messages_from_completion_tokens(
            tokens, openai_harmony.Role.ASSISTANT, strict=True
        )
    except openai_harmony.HarmonyError as error:
        return [f"openai_harmony: {error}"]
    recipients = [None, *(f"functions.{name}" for name in tools)]
    found = []
    for message in messages:
        if message.channel not in CHANNELS:
            found.append(f"channel {message.channel!r}")
        if message.recipient not in recipients:
            found.append(f"recipient {message.recipient!r}")
        if message.content_type not in CONTENT_TYPES:
            found.append(f"content type {message.content_type!r}")
    return found
