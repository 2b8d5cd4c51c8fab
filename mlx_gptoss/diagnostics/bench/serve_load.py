"""The requests of `bench serve`: conversations that run at once, turn by turn.

A conversation is raw (the prompt, the answer, and new words behind it) or a chat. With
a changing tail every turn sends the same prompt instead, whose last tokens differ. All
words come from a seed, so that every server gets the same. Sends requests, and knows
nothing of results.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.diagnostics.bench.streams import (
    CHAT,
    COMPLETIONS,
    ServerAddress,
    StreamTiming,
    time_stream,
)
from mlx_gptoss.harmony.messages import answer
from mlx_gptoss.harmony.render.pieces import message_pieces, pieces_text

LATER_TOKENS = 32  # new tokens of each turn but the first
BESIDE_TOKENS = 4  # of an answer to a long prompt
EXCLUDED_BIAS = -100.0  # a bias
UNSAID = "Let me see."  # the history of an answer that was all reasoning
WORDS = (
    "the river was wide and slow that year so they went along its bank until night "
    "fell over hills of which nobody knew a name or had ever drawn any map"
)


@dataclass(frozen=True)
class ServeLoad:
    """The conversations of a round.

    prompt_tokens, tokens: least tokens of the first prompt, most of each answer.
    chat: chat completions instead of raw ones.
    turns, think_s: requests of each conversation, and seconds between them.
    tail: tokens that differ between the turns of one prompt; 0 for a conversation.
    prefilled: send each first prompt for one token before, so that it is cached.
    beside, beside_tokens: long prompts that are sent once all others have begun.
    ends: tokens that end an answer, which are biased away if the server `is_strict`.
    """

    tokenizer: Tokenizer
    ends: Sequence[int]
    prompt_tokens: int
    tokens: int
    chat: bool = False
    turns: int = 1
    think_s: float = 0.0
    tail: int = 0
    prefilled: bool = False
    beside: int = 0
    beside_tokens: int = 0

    @property
    def path(self) -> str:
        return CHAT if self.chat else COMPLETIONS

    def conversations(
        self, streams: int, seed: int, *, strict: bool, harmony: bool
    ) -> list["Conversation"]:
        """Build conversations whose prompts share no prefix."""
        return [
            Conversation(self, f"{streams} {seed} {n}", strict=strict, harmony=harmony)
            for n in range(streams)
        ]

    def words(self, rng: random.Random, tokens: int) -> str:
        """Return words of at least so many tokens, and few more, a number first."""
        words = [f"{rng.randrange(10**6)}"]
        missing = tokens - len(self.tokenizer.encode(words[0]))
        while missing > 0:
            words.append(rng.choice(list(self._lengths)))
            missing -= self._lengths[words[-1]]
        return " ".join(words)

    @cached_property
    def _lengths(self) -> dict[str, int]:
        """The tokens of each word behind a space: a tokenizer splits text there."""
        words = WORDS.split()
        return {word: len(self.tokenizer.encode(f" {word}")) for word in words}


class Conversation:
    """The requests of one stream, each built from the answers so far."""

    def __init__(
        self, load: ServeLoad, seed: str, *, strict: bool, harmony: bool
    ) -> None:
        self._load = load
        self._harmony = harmony
        self._random = random.Random(seed)
        self._head = load.words(self._random, load.prompt_tokens - load.tail)
        self._said: list[str] = []  # questions and answers in turn
        self._body: dict[str, Any] = {"max_tokens": load.tokens, "temperature": 0}
        if strict and not load.chat:
            bias = dict.fromkeys(map(str, load.ends), EXCLUDED_BIAS)
            self._body["logit_bias"] = bias

    def request(self) -> dict[str, Any]:
        """Build the request of the next turn."""
        load = self._load
        if load.tail:
            self._said = [f"{self._head} {load.words(self._random, load.tail)}"]
        elif not self._said:
            self._said = [self._head]
        else:
            space = "" if load.chat else " "
            self._said.append(space + load.words(self._random, LATER_TOKENS))
        return self._body | self._prompt()

    def take_answer(self, text: str) -> None:
        """Append the answer to the history."""
        self._said.append(text or UNSAID)

    def _prompt(self) -> dict[str, Any]:
        if not self._load.chat:
            return {"prompt": "".join(self._said)}  # answers begin with their space
        roles = ("user", "assistant")
        return {
            "messages": [
                {"role": roles[n % 2], "content": self._content(text, n % 2 == 1)}
                for n, text in enumerate(self._said)
            ]
        }

    def _content(self, text: str, is_answer: bool) -> str:
        if is_answer and self._harmony:
            return pieces_text(message_pieces(answer(text), has_function_tools=False))
        return text


@dataclass(frozen=True)
class RoundTimings:
    """The answers of each conversation in order, and those to the long prompts."""

    conversations: list[list[StreamTiming]]
    beside: list[StreamTiming]


def run_round(
    address: ServerAddress, load: ServeLoad, streams: int, seed: int, *, strict: bool
) -> RoundTimings:
    """Run `streams` conversations at once and wait for all to end.

    All begin at the same moment. Raises EngineFailure if one gets no whole answer.
    """
    conversations = load.conversations(
        streams, seed, strict=strict, harmony=address.harmony
    )
    first_bodies = [each.request() for each in conversations]
    if load.prefilled:
        for body in first_bodies:
            time_stream(address, body | {"max_tokens": 1}, path=load.path)
    rng = random.Random(f"beside {streams} {seed}")
    long_bodies = [
        _long_body(load, load.words(rng, load.beside_tokens))
        for _ in range(load.beside)
    ]
    barrier = threading.Barrier(streams)
    begun = threading.Semaphore(0)

    def converse(
        conversation: Conversation, body: dict[str, Any]
    ) -> list[StreamTiming]:
        found: list[StreamTiming] = []
        barrier.wait()
        try:
            for turn in range(load.turns):
                if turn:
                    time.sleep(load.think_s)
                    body = conversation.request()
                found.append(_time(address, load, body, begun.release))
                conversation.take_answer(found[-1].text)
        finally:
            begun.release()  # nobody waits for a stream that failed
        return found

    def read_beside(body: dict[str, Any]) -> StreamTiming:
        return _time(address, load, body, lambda: None)

    with ThreadPoolExecutor(streams + load.beside) as pool:
        talks = [
            pool.submit(converse, *each)
            for each in zip(conversations, first_bodies, strict=True)
        ]
        if long_bodies:
            for _ in range(streams):
                begun.acquire()
        beside = [pool.submit(partial(read_beside, body)) for body in long_bodies]
        return RoundTimings(
            [talk.result() for talk in talks], [read.result() for read in beside]
        )


def _long_body(load: ServeLoad, text: str) -> dict[str, Any]:
    prompt = (
        {"messages": [{"role": "user", "content": text}]}
        if load.chat
        else {"prompt": text}
    )
    return {"max_tokens": BESIDE_TOKENS, "temperature": 0} | prompt


def _time(
    address: ServerAddress,
    load: ServeLoad,
    body: dict[str, Any],
    on_first: Callable[[], None],
) -> StreamTiming:
    return time_stream(address, body, path=load.path, on_first=on_first)
