"""The worker process itself: compile grammars and compute masks in threads.

Messages and answers are JSON; an answer carries the id of its message. The library
releases the GIL while it computes, so a costly mask does not delay others. The process
ends when the other side of its pipe is closed.
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

STACK = 128 << 20  # bytes of address space for a thread: the library recurses deeply
SWITCH_SECONDS = 0.0005  # so that masks do not wait long for a compilation


def main(link: int, shared: int) -> None:
    """Serve the messages of the socket `link`; write masks into the file `shared`."""
    sys.setswitchinterval(SWITCH_SECONDS)
    threading.stack_size(STACK)
    Child(Connection(link), mmap.mmap(shared, SHARED_BYTES)).serve()


class Child:
    """Executes messages and answers each."""

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
            "mask": self._mask,
        }

    def serve(self) -> None:
        """Execute messages in threads until the pipe is closed."""
        compilers = self._threads(COMPILE_THREADS)
        maskers = self._threads(MASK_THREADS)
        self._send({"id": None})
        while True:
            try:
                message = json.loads(self._link.recv_bytes())
            except (EOFError, OSError):  # the other side is gone
                os._exit(0)  # without waiting for threads
            if message["do"] == "vocabulary":
                self._learn(message)
            elif message["do"] == "forget":
                self._forget(message)
            elif message["do"] == "mask":
                maskers.put(message)
            else:
                compilers.put(message)

    def _threads(self, count: int) -> "SimpleQueue[Json]":
        """Start threads that execute the messages of a queue, and return the queue."""
        queue: SimpleQueue[Json] = SimpleQueue()

        def work() -> None:
            while True:
                self._answer(queue.get())

        for _ in range(count):
            threading.Thread(target=work, daemon=True).start()
        return queue

    def _answer(self, message: Json) -> None:
        answer: dict[str, Any] = {"id": message["id"]}
        write_number(self._shared, message["slot"], message["id"])
        try:
            answer["value"] = self._tasks[message["do"]](message)
        except GptOssError as error:
            answer["error"] = str(error)
        except Exception as error:  # our fault: report it to the caller
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

    def _mask(self, message: Json) -> tuple[bool, int]:
        """Advance a matcher by tokens and write the mask of the next one.

        Returns whether the text may end here, and the size of the mask in bytes.
        """
        key, started = message["matcher"], message["grammar"]
        if started is not None:
            grammars = self._vocabularies[message["vocabulary"]].grammars()
            self._matchers[key] = grammars.matcher(grammar.CompiledGrammar(started))
        matcher = self._matchers[key]
        for token in message["tokens"]:
            matcher.accept(token)
        bits = matcher.packed_mask()
        start = message["slot"] * MASK_BYTES
        self._shared[start : start + len(bits)] = bits
        return matcher.is_accepting, len(bits)


class LazyGrammars:
    """The grammars of a tokenizer that is loaded on first use. Thread-safe."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._loading = threading.Lock()
        self._loaded: grammar.LocalGrammars | None = None

    def grammars(self) -> grammar.LocalGrammars:
        with self._loading:
            if self._loaded is None:
                vocabulary = tokenizers.Tokenizer.from_str(self._text)
                found = grammar.LocalGrammars(Tokenizer(vocabulary, "of the model"))
                found.tokenizer()
                self._loaded, self._text = found, ""
            return self._loaded
