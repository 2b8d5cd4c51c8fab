"""A scripted long conversation: every prompt, and the reply to it.

A system block of thousands of tokens and ten turns, some with a tool call; then the
last answer again, an edited question, and another conversation under the same system
block. Replies are fixed, so that all engines get the same prompts. Knows token ids and
Harmony, no engine.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.harmony.messages import (
    Message,
    ToolDescription,
    answer,
    developer,
    reasoning,
    system,
    tool_call,
    tool_result,
    user,
)
from mlx_gptoss.harmony.render.prompt import (
    drop_analysis,
    render_message,
    render_messages,
)

WORDS = """
    the a one some of in to and or not is was can will do say see ask know use find
    give make take come go day time work part place way year name line file word
    number point house water light city red small long old new good right each
"""
SEED = 6
TOOL = "look_up"
TOOL_TURNS = (3, 6, 9)
DATE = "2026-01-01"  # fixed, so that prompts never change


@dataclass(frozen=True)
class Lengths:
    """Approximate tokens of each kind of message."""

    system: int = 4096
    question: int = 60
    thinking: int = 80
    answer: int = 120
    arguments: int = 12
    result: int = 150


@dataclass(frozen=True)
class ScriptedRequest:
    """A prompt, the reply to it, and the tokens that a perfect cache must prefill.

    `new` counts the tokens of messages since the last answer, `answer` those of that
    answer as history shows it. `before` is the history without `new`, which can be
    prefilled in idle time.
    """

    name: str
    messages: tuple[Message, ...] = field(repr=False)
    prompt: list[int] = field(repr=False)
    reply: list[int] = field(repr=False)
    before: list[int] = field(repr=False)
    new: int
    answer: int


class ConversationScript:
    """Builds the conversation with one tokenizer."""

    def __init__(
        self, tokenizer: Tokenizer, *, turns: int, lengths: Lengths | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._lengths = lengths or Lengths()
        self._turns = turns
        self._random = random.Random(SEED)
        self._words = WORDS.split()
        tool = ToolDescription(
            TOOL,
            "Looks a word up.",
            {"type": "object", "properties": {"word": {"type": "string"}}},
        )
        block = [
            system(conversation_date=DATE),
            developer(self._text(self._lengths.system), tools=[tool]),
        ]
        self._block = block

    def requests(self) -> Iterator[ScriptedRequest]:
        """Yield all requests in order."""
        history, last = list(self._block), 0
        request: ScriptedRequest | None = None
        before_question: list[Message] = []
        for turn in range(1, self._turns + 1):
            before_question = list(history)
            history.append(user(self._text(self._lengths.question)))
            if turn in TOOL_TURNS:
                calling = [
                    reasoning(self._text(self._lengths.thinking)),
                    tool_call(
                        TOOL, '{"word": "' + self._text(self._lengths.arguments) + '"}'
                    ),
                ]
                yield self._request(f"{turn}", history, last, calling)
                last = len(history) + 1  # reasoning stays until the answer
                history += [
                    *calling,
                    tool_result(TOOL, self._text(self._lengths.result)),
                ]
                name = f"{turn}, after the tool"
            else:
                name = f"{turn}"
            final = answer(self._text(self._lengths.answer))
            saying = [reasoning(self._text(self._lengths.thinking)), final]
            request = self._request(name, history, last, saying)
            yield request
            history.append(final)
            last = len(history) - 1
        assert request is not None
        generation_prompt = len(render_messages([], self._tokenizer))
        yield replace(
            request,
            name="the last answer again",
            before=request.prompt[:-generation_prompt],
            new=generation_prompt,
            answer=0,
        )
        for name, start in (
            ("the last question edited", before_question),
            ("another conversation", list(self._block)),
        ):
            saying = [answer(self._text(self._lengths.answer))]
            edited = [*start, user(self._text(self._lengths.question))]
            yield self._request(name, edited, len(start), saying)

    def _request(
        self, name: str, messages: list[Message], last: int, saying: list[Message]
    ) -> ScriptedRequest:
        """Build one request; the last answer starts with message `last`."""
        vocabulary = self._tokenizer
        prompt = render_messages(messages, vocabulary)
        since = len(messages)
        while since and messages[since - 1].role in ("user", "tool"):
            since -= 1
        if last == 0:  # nothing precedes the first question
            since = 0
        before = render_messages(messages[:since], vocabulary, complete=False)
        answered = render_messages(
            messages[: min(last, since)], vocabulary, complete=False
        )
        before = before[: _common(before, prompt)]
        return ScriptedRequest(
            name,
            tuple(drop_analysis(messages)),
            prompt,
            self._render_reply(saying),
            before,
            new=len(prompt) - len(before),
            answer=len(before) - _common(answered, before),
        )

    def _render_reply(self, messages: list[Message]) -> list[int]:
        """Return the token ids the model writes after `<|start|>assistant`."""
        vocabulary = self._tokenizer
        ids: list[int] = []
        for message in messages:
            ids += render_message(message, vocabulary, recipient_in="channel")
        if not messages[-1].is_call:
            ids[-1] = vocabulary.special("<|return|>")
        generation_prompt = len(render_messages([], vocabulary))
        return ids[generation_prompt:]

    def _text(self, tokens: int) -> str:
        """Return random words of about so many tokens."""
        words: list[str] = []
        length = 0
        while length < tokens:
            word = self._random.choice(self._words)
            words.append(word)
            length += len(self._tokenizer.encode(" " + word))
        return " ".join(words)


def _common(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))
