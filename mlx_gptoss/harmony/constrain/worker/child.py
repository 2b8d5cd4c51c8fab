"""The worker's own side: compiles grammars and follows texts, a thread for each task.

Messages and answers are JSON; an answer carries the number of its message. The library
lets go of the interpreter while it computes, so a costly mask holds up nobody else's.
The process ends when the other side of its pipe is closed.
"""

import json
import mmap
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import tokenizers

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import GptOssError
from mlx_gptoss.harmony.constrain import grammar
from mlx_gptoss.harmony.constrain.worker.process import (
    COMPILE_THREADS,
    MASK_BYTES,
    MASK_THREADS,
    SHARED_BYTES,
    write_number,
)
from mlx_gptoss.harmony.json_text import Json

STACK = 128 << 20  # bytes of address space for a thread: the library goes down deep
SWITCH_SECONDS = 0.0005  # a mask does not wait long for a grammar that is compiled


def main(link: int, shared: int) -> None:
    """Serve what comes through the socket `link`; write masks into `shared`, a file."""
    sys.setswitchinterval(SWITCH_SECONDS)
    threading.stack_size(STACK)
    Child(Connection(link), mmap.mmap(shared, SHARED_BYTES)).serve()


class Child:
    """Does what messages say and answers each."""

    def __init__(self, link: "Connection[Any, Any]", shared: mmap.mmap) -> None:
        self._link = link
        self._shared = shared
        self._sending = threading.Lock()
        self._vocabularies: dict[int, LazyGrammars] = {}
        self._matchers: dict[int, grammar.LocalMatcher] = {}
        self._tasks: dict[str, Callable[[Json], Any]] = {
            "prepare": self._prepare,
            "compile": self._compile,
            "can_enforce": self._can_enforce,
            "follow": self._follow,
        }

    def serve(self) -> None:
        """Do everything that comes, each thing in a thread, until nothing can come."""
        compilers, followers = (
            self._threads(COMPILE_THREADS),
            self._threads(MASK_THREADS),
        )
        self._send({"id": None})
        while True:
            try:
                message = json.loads(self._link.recv_bytes())
            except (EOFError, OSError):  # nobody is there any more
                os._exit(0)  # whatever the threads are at
            if message["do"] == "vocabulary":
                self._learn(message)
            elif message["do"] == "forget":
                self._forget(message)
            elif message["do"] == "follow":
                followers.put(message)
            else:
                compilers.put(message)

    def _threads(self, count: int) -> "SimpleQueue[Json]":
        """Start threads for what is put in a queue: all now, or the process ends."""
        queue: SimpleQueue[Json] = SimpleQueue()

        def work() -> None:
            while True:
                self._answer(queue.get())

        for _ in range(count):
            threading.Thread(target=work, daemon=True).start()
        return queue

    def _answer(self, message: Json) -> None:
        answer: dict[str, Any] = {"id": message["id"]}
        write_number(self._shared, message["place"], message["id"])
        try:
            answer["value"] = self._tasks[message["do"]](message)
        except GptOssError as error:
            answer["error"] = str(error)
        except Exception as error:  # a fault of ours: the one who asked hears of it
            answer["error"] = f"the grammar worker failed: {error!r}"
        self._send(answer)

    def _send(self, answer: Json) -> None:
        with self._sending:
            self._link.send_bytes(json.dumps(answer).encode())

    def _learn(self, message: Json) -> None:
        self._vocabularies[message["vocabulary"]] = LazyGrammars(message["tokenizer"])

    def _forget(self, message: Json) -> None:
        for key in message["matchers"]:
            self._matchers.pop(key, None)
        for key in message["vocabularies"]:
            self._vocabularies.pop(key, None)

    def _prepare(self, message: Json) -> None:
        self._vocabularies[message["vocabulary"]].grammars()

    def _compile(self, message: Json) -> Any:
        kind, text = message["kind"], message["source"]
        is_schema = kind in ("json_schema", "arguments")
        found = grammar.compile_grammar(
            kind,
            json.loads(text) if is_schema else text,
            what=message["what"],
            strict=message["strict"],
        )
        return asdict(found)

    def _can_enforce(self, message: Json) -> bool:
        return grammar.can_enforce(message["kind"], message["source"])

    def _follow(self, message: Json) -> tuple[bool, int]:
        """Go on with a text, and write which tokens may come next, a bit for each.

        Returns whether the text may end here, and the bytes of the mask.
        """
        key, begun = message["matcher"], message["grammar"]
        if begun is not None:
            grammars = self._vocabularies[message["vocabulary"]].grammars()
            self._matchers[key] = grammars.matcher(grammar.CompiledGrammar(begun))
        matcher = self._matchers[key]
        for token in message["tokens"]:
            matcher.accept(token)
        bits = matcher.packed_mask()
        start = message["place"] * MASK_BYTES
        self._shared[start : start + len(bits)] = bits
        return matcher.is_accepting, len(bits)


class LazyGrammars:
    """A tokenizer that is read when it is needed first, by whichever thread."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._reading = threading.Lock()
        self._read: grammar.LocalGrammars | None = None

    def grammars(self) -> grammar.LocalGrammars:
        with self._reading:
            if self._read is None:
                vocabulary = tokenizers.Tokenizer.from_str(self._text)
                read = grammar.LocalGrammars(Tokenizer(vocabulary, "of the model"))
                read.tokenizer()
                self._read, self._text = read, ""
            return self._read
