"""The client of the worker: grammars of one tokenizer, and matchers of texts.

A grammar that brought the worker down once is never sent again.
"""

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal
from weakref import finalize

import numpy as np

from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.errors import SchemaError
from mlx_gptoss.harmony.constrain.answer_format import GrammarKind
from mlx_gptoss.harmony.constrain.grammar import source_text, unpack_mask
from mlx_gptoss.harmony.constrain.schema.compile import (
    ANY_VALUE,
    WHOLE_SCHEMA,
    CompiledGrammar,
    compile_schema,
)
from mlx_gptoss.harmony.constrain.worker.process import WorkerProcess
from mlx_gptoss.harmony.constrain.worker.supervisor import Supervisor
from mlx_gptoss.harmony.constrain.worker.task import LostError, Task

COMPILE_SECONDS = 20.0
MASK_SECONDS = 5.0
SLOW_SECONDS = 0.1  # after a mask that took longer, the next one counts as slow
TOKEN_SECONDS = 0.002  # more for each token that is replayed
REMEMBERED = 512  # compiled grammars: an agent offers 400 tools again each turn
SCHEMAS = ("json_schema", "arguments")
_keys = itertools.count(1)
_shared = Supervisor()  # one process serves all models
os.register_at_fork(after_in_child=_shared.reset)
Key = tuple[GrammarKind, bool, str]


class GrammarLostError(SchemaError):
    """A grammar brought the worker down and is no longer enforced."""


class WorkerGrammars:
    """Compiles grammars for one tokenizer. Thread-safe."""

    def __init__(
        self, tokenizer: Tokenizer, supervisor: Supervisor | None = None
    ) -> None:
        self.supervisor = supervisor or _shared
        self._tokenizer = tokenizer
        self._key = next(_keys)
        self._compiled: dict[Key, Future[CompiledGrammar]] = {}
        self._lost: dict[str, str] = {}  # by grammar: how it brought the worker down
        self._lock = threading.Lock()
        self._prepared: Future[Any] | None = None
        self.supervisor.register(self._key)
        self._close = finalize(self, self.supervisor.unregister, self._key)

    def close(self) -> None:
        """Release the vocabulary; without any the worker ends. Idempotent."""
        self._close()

    def prepare(self) -> None:
        """Start to load the vocabulary, which takes a second or two, once."""
        with self._lock:
            if self._prepared is None:
                task = Task(
                    partial(self.address, message={"do": "prepare"}),
                    MASK_SECONDS,
                    vocabulary=self._key,
                )
                self._prepared = self.supervisor.submit(task)

    def compile(
        self, kind: GrammarKind, source: Any, *, what: str, strict: bool = False
    ) -> CompiledGrammar:
        """Compile a grammar in the worker: see `grammar.compile_grammar`."""
        return self.start_compile(kind, source, what=what, strict=strict)()

    def start_compile(
        self, kind: GrammarKind, source: Any, *, what: str, strict: bool = False
    ) -> Callable[[], CompiledGrammar]:
        """Start to compile; the returned function waits for the result."""
        key = (kind, strict, source_text(source, what))
        with self._lock:
            found = self._compiled.pop(key, None)
            if found is None or (found.done() and _failed(found)):
                found = self._submit(key, what)
            self._compiled[key] = found
            if len(self._compiled) > REMEMBERED:
                del self._compiled[next(iter(self._compiled))]
        return partial(self._finished, key, found, what)

    def matcher(self, compiled: CompiledGrammar) -> "WorkerMatcher":
        """Start to match a text against a compiled grammar."""
        return WorkerMatcher(self, compiled)

    def address(
        self, process: WorkerProcess, message: dict[str, Any]
    ) -> dict[str, Any]:
        """Add the vocabulary to a message; send it first if the process lacks it."""
        if self._key not in process.vocabularies:
            process.vocabularies.add(self._key)
            process.send(self._vocabulary)
        return {"vocabulary": self._key, **message}

    def give_up(self, compiled: CompiledGrammar, why: str) -> None:
        """Never send a grammar again, which brought the worker down."""
        with self._lock:
            self._lost[compiled.grammar] = why
            if len(self._lost) > REMEMBERED:
                del self._lost[next(iter(self._lost))]

    def _vocabulary(self) -> dict[str, Any]:
        return {
            "do": "vocabulary",
            "vocabulary": self._key,
            "tokenizer": self._tokenizer.serialized(),
        }

    @property
    def key(self) -> int:
        return self._key

    def _submit(self, key: Key, what: str) -> "Future[CompiledGrammar]":
        kind, strict, source = key
        message = {
            "do": "compile",
            "kind": kind,
            "source": source,
            "strict": strict,
            "what": what,
        }
        return self.supervisor.submit(Task(lambda process: message, COMPILE_SECONDS))

    def _finished(self, key: Key, found: "Future[Any]", what: str) -> CompiledGrammar:
        kind, strict, _ = key
        try:
            _, value = found.result()
            freed = tuple(map(tuple, value["unenforced"]))
            compiled = CompiledGrammar(value["grammar"], freed, value["best_effort"])
            why = self._lost.get(compiled.grammar)
        except LostError as error:
            compiled, why = None, str(error)
        if why is None and compiled is not None:
            return compiled
        if kind not in SCHEMAS or strict:
            raise GrammarLostError(
                f"{what} cannot be enforced (its grammar {why}): change it"
            )
        return replace(
            _anything(ordered=kind == "json_schema"), unenforced=(WHOLE_SCHEMA,)
        )


class WorkerMatcher:
    """The state of one text within a grammar. One thread at a time may use it."""

    def __init__(self, grammars: WorkerGrammars, compiled: CompiledGrammar) -> None:
        self._grammars = grammars
        self._compiled = compiled
        self._key = next(_keys)
        self._tokens: list[int] = []
        self._process: WorkerProcess | None = None  # that has the text, and
        self._sent = 0  # how many of its tokens
        self._pending: Future[Any] | None = None
        self._last: Task | None = None
        forget = grammars.supervisor.forget_matcher
        finalize(self, forget, self._key).atexit = False

    def accept(self, token: int) -> None:
        """Advance by a token, which must be allowed."""
        if self._pending is not None:  # one matcher must not run in two threads
            self._answer()
        self._tokens.append(token)
        self._pending = None

    def start_mask(self) -> "Future[Any]":
        """Start to compute the next token mask, unless that has been started."""
        if self._pending is None:
            self._last = Task(
                self._message,
                MASK_SECONDS,
                vocabulary=self._grammars.key,
                computes_mask=True,
                is_slow=self._last is not None and self._last.duration > SLOW_SECONDS,
            )
            self._pending = self._grammars.supervisor.submit(self._last)
        return self._pending

    def token_mask(self, size: int) -> np.ndarray:
        """Return the tokens that may come next, as bool (size,); possibly none.

        Waits for the worker. Raises SchemaError when the library's limits are exceeded,
        and GrammarLostError when the grammar brought the worker down.
        """
        return unpack_mask(self._answer()[1], size)

    @property
    def is_accepting(self) -> bool:
        """Whether the text may end here. Waits for the worker."""
        return self._answer()[0]

    def _answer(self) -> tuple[bool, bytes]:
        try:
            process, found = self.start_mask().result()
        except LostError as error:
            self._grammars.give_up(self._compiled, str(error))
            raise GrammarLostError(
                f"a grammar can no longer be enforced (it {error}): change it"
            ) from error
        self._process, self._sent = process, len(self._tokens)
        return found

    def _message(self, process: WorkerProcess) -> dict[str, Any]:
        has_text = process is self._process
        tokens = self._tokens[self._sent if has_text else 0 :]
        message = {
            "do": "mask",
            "matcher": self._key,
            "grammar": None if has_text else self._compiled.grammar,
            "tokens": tokens,
            "more_seconds": TOKEN_SECONDS * len(tokens),
        }
        return self._grammars.address(process, message)


def can_enforce(kind: Literal["regex", "lark"], source: str) -> bool:
    """Whether the library accepts a grammar."""
    message = {"do": "can_enforce", "kind": kind, "source": source}
    task = Task(lambda process: message, COMPILE_SECONDS)
    try:
        return _shared.submit(task).result()[1]
    except LostError:
        return False


@cache
def _anything(*, ordered: bool) -> CompiledGrammar:
    """Compile the grammar of any value, in this process, where it cannot be lost."""
    return compile_schema(ANY_VALUE[ordered], ordered=ordered, strict=False)


def _failed(found: "Future[Any]") -> bool:
    """Whether a task failed with an error that a retry may not have."""
    return not isinstance(found.exception(), LostError | None)
