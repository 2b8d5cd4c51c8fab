"""The grammars of one tokenizer and the texts that follow them, as users see them.

What brought the worker down once is not asked of it again.
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
from mlx_gptoss.harmony.constrain.worker.supervisor import LostError, Supervisor, Task

COMPILE_SECONDS = 20.0
MASK_SECONDS = 5.0
SLOW_SECONDS = 0.1  # a mask that took longer: the next one will, too
TOKEN_SECONDS = 0.002  # more for each token that is followed again
REMEMBERED = 512  # grammars that were checked: 400 tools are offered again each turn
SCHEMAS = ("json_schema", "arguments")
_keys = itertools.count(1)
_shared = Supervisor()  # one process serves all models
os.register_at_fork(after_in_child=_shared.reset)
Key = tuple[GrammarKind, bool, str]


class GrammarLostError(SchemaError):
    """A grammar brought the worker down: nothing enforces it any more."""


class WorkerGrammars:
    """Compiles grammars for one tokenizer; any thread may."""

    def __init__(
        self, tokenizer: Tokenizer, supervisor: Supervisor | None = None
    ) -> None:
        self.supervisor = supervisor or _shared
        self._tokenizer = tokenizer
        self._key = next(_keys)
        self._compiled: dict[Key, Future[CompiledGrammar]] = {}
        self._lost: dict[str, str] = {}  # grammars, and what they did
        self._lock = threading.Lock()
        self._prepared: Future[Any] | None = None
        self.supervisor.register(self._key)
        self._close = finalize(self, self.supervisor.unregister, self._key)

    def close(self) -> None:
        """Have the vocabulary forgotten; without any the worker ends. Twice is once."""
        self._close()

    def prepare(self) -> None:
        """Begin to read the vocabulary, which takes a second or two, once."""
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
        """Return the library's form of a grammar, and what it leaves free.

        "arguments" is a JSON schema whose objects take their fields in any order.
        Raises SchemaError, which names `what`, the feature that is not supported, and
        what to do: for a schema with `strict` only, for other grammars always.
        """
        return self.start_compile(kind, source, what=what, strict=strict)()

    def start_compile(
        self, kind: GrammarKind, source: Any, *, what: str, strict: bool = False
    ) -> Callable[[], CompiledGrammar]:
        """Begin to compile; what is returned waits for it."""
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
        """Start to match a text against what `compile` returned."""
        return WorkerMatcher(self, compiled)

    def address(self, life: WorkerProcess, message: dict[str, Any]) -> dict[str, Any]:
        """Complete a message about this vocabulary, which the process may not have."""
        if self._key not in life.vocabularies:
            life.vocabularies.add(self._key)
            life.send(self._vocabulary)
        return {"vocabulary": self._key, **message}

    def give_up(self, compiled: CompiledGrammar, why: str) -> None:
        """Never ask for a grammar again, which brought the worker down."""
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
        return self.supervisor.submit(Task(lambda life: message, COMPILE_SECONDS))

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
    """One text on its way through a grammar. One thread at a time may use it."""

    def __init__(self, grammars: WorkerGrammars, compiled: CompiledGrammar) -> None:
        self._grammars = grammars
        self._compiled = compiled
        self._key = next(_keys)
        self._tokens: list[int] = []
        self._life: WorkerProcess | None = None  # the process that knows the text, and
        self._known = 0  # how many of its tokens
        self._seen: Future[Any] | None = None
        self._last: Task | None = None
        forget = grammars.supervisor.forget_matcher
        finalize(self, forget, self._key).atexit = False

    def accept(self, token: int) -> None:
        """Take the token that was chosen; it must be one that was allowed."""
        if self._seen is not None:  # two threads must not follow one text
            self._found()
        self._tokens.append(token)
        self._seen = None

    def start_mask(self) -> "Future[Any]":
        """Begin to work out what may come next, if that is not under way."""
        if self._seen is None:
            self._last = Task(
                self._message,
                MASK_SECONDS,
                vocabulary=self._grammars.key,
                computes_mask=True,
                is_slow=self._last is not None and self._last.duration > SLOW_SECONDS,
            )
            self._seen = self._grammars.supervisor.submit(self._last)
        return self._seen

    def token_mask(self, size: int) -> np.ndarray:
        """Return a bool (size,): the tokens that may come next; none may be left.

        Waits for it. Raises SchemaError when the grammar asks too much of the library,
        and GrammarLostError when it brought the worker down.
        """
        return unpack_mask(self._found()[1], size)

    @property
    def is_accepting(self) -> bool:
        """Whether the text may end here. Waits for it."""
        return self._found()[0]

    def _found(self) -> tuple[bool, bytes]:
        try:
            life, found = self.start_mask().result()
        except LostError as error:
            self._grammars.give_up(self._compiled, str(error))
            raise GrammarLostError(
                f"a grammar cannot be enforced any more (it {error}): change it"
            ) from error
        self._life, self._known = life, len(self._tokens)
        return found

    def _message(self, life: WorkerProcess) -> dict[str, Any]:
        knows = life is self._life
        tokens = self._tokens[self._known if knows else 0 :]
        message = {
            "do": "follow",
            "matcher": self._key,
            "grammar": None if knows else self._compiled.grammar,
            "tokens": tokens,
            "more_seconds": TOKEN_SECONDS * len(tokens),
        }
        return self._grammars.address(life, message)


def can_enforce(kind: Literal["regex", "lark"], source: str) -> bool:
    """Whether the library takes a grammar."""
    message = {"do": "can_enforce", "kind": kind, "source": source}
    task = Task(lambda life: message, COMPILE_SECONDS)
    try:
        return _shared.submit(task).result()[1]
    except LostError:
        return False


@cache
def _anything(*, ordered: bool) -> CompiledGrammar:
    """Compile what nobody sent, here, where it cannot be lost."""
    return compile_schema(ANY_VALUE[ordered], ordered=ordered, strict=False)


def _failed(found: "Future[Any]") -> bool:
    """Whether a task ended with an error that another time may end without."""
    return not isinstance(found.exception(), LostError | None)
