"""Grammars over a tokenizer: which tokens keep a text on the way to being valid.

JSON schemas, regular expressions and Lark grammars, by `llguidance`. A schema that
cannot be kept to the letter is refused before anything is generated:

    grammars = Grammars(tokenizer)
    grammar = grammars.compile("json_schema", schema, what="the arguments of `f`")
    matcher = grammars.matcher(grammar)
    matcher.allowed(vocab_size)      # bool for every id
    matcher.feed(token)
    matcher.complete                 # the text so far may end here

Knows text tokens only; what ends a text is not its business.
"""

import json
import threading
from collections.abc import Sequence
from typing import Any, Literal

import llguidance
import numpy as np

from mlx_gptoss.errors import SchemaError
from mlx_gptoss.tokenizer import Tokenizer

# Space between the parts of JSON: enough for deep indentation, never without end.
WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"
QUIET = 0  # the log level at which the library prints nothing


class Grammars:
    """Compiles grammars for one tokenizer. Thread-safe.

    The library takes a second or two to read a large vocabulary, once: `prepare`
    begins with it while other things are done.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._source = tokenizer
        self._checked: set[str] = set()
        self._reading = threading.Lock()
        self._read: llguidance.LLTokenizer | None = None

    def compile(
        self, kind: Literal["json_schema", "regex", "lark"], source: Any, *, what: str
    ) -> str:
        """Return the library's form of a grammar.

        Raises SchemaError, which names `what` and the feature that is not supported.
        """
        try:
            grammar = _as_grammar(kind, source)
        except (TypeError, ValueError) as error:  # it cannot be written as JSON
            raise SchemaError(f"{what} cannot be enforced: {error}") from error
        if grammar not in self._checked:
            check = llguidance.LLMatcher.validate_grammar_with_warnings
            failed, lines = check(grammar)
            if failed:
                said = " ".join(" ".join(lines).split())
                raise SchemaError(f"{what} cannot be enforced: {said}")
            self._checked.add(grammar)
        return grammar

    def matcher(self, grammar: str) -> "Matcher":
        """Start to match a text against what `compile` returned."""
        tokenizer = self._tokenizer()
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=QUIET)
        return Matcher(matcher, tokenizer.eos_token)

    def prepare(self) -> None:
        """Begin to read the vocabulary, in a thread of its own."""
        if self._read is None and not self._reading.locked():
            threading.Thread(target=self._tokenizer, name="grammars").start()

    def _tokenizer(self) -> llguidance.LLTokenizer:
        with self._reading:
            if self._read is None:
                source = _Source(self._source)
                self._read = llguidance.LLTokenizer(
                    llguidance.TokenizerWrapper(source),
                    n_vocab=len(source.tokens),
                    eos_token=source.eos_token_id,
                )
            return self._read


class Matcher:
    """One text on its way through a grammar."""

    def __init__(self, matcher: "llguidance.LLMatcher", end: int) -> None:
        self._matcher = matcher
        self._end = end  # the library's sign that the text may end

    def allowed(self, size: int) -> np.ndarray:
        """Return a bool (size,): the tokens that may come next; none may be left.

        Raises SchemaError when the grammar asks too much of the library.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise SchemaError(f"a grammar failed: {self._matcher.get_error()}")
        found = np.unpackbits(bits, bitorder="little").astype(bool)
        allowed = np.zeros(size, bool)
        shared = min(size, len(found))
        allowed[:shared] = found[:shared]
        allowed[self._end] = False
        return allowed

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    def feed(self, token: int) -> None:
        """Take the token that was chosen; it must be one that was allowed."""
        if not self._matcher.consume_token(token):
            raise SchemaError(f"a grammar failed: {self._matcher.get_error()}")


class _Source:
    """A tokenizer as the library wants to see it."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        ids = range(tokenizer.vocab_size)
        self.tokens: Sequence[bytes] = [tokenizer.token_bytes(token) for token in ids]
        self.special_token_ids = sorted(tokenizer.specials.values())
        self.eos_token_id = tokenizer.specials["<|return|>"]
        self._encode = tokenizer.encode

    def __call__(self, text: bytes | str) -> list[int]:
        if isinstance(text, bytes):
            text = text.decode("utf-8", "replace")
        return self._encode(text)


def _as_grammar(kind: str, source: Any) -> str:
    matcher = llguidance.LLMatcher
    if kind == "regex":
        return matcher.grammar_from_regex(source)
    if kind == "lark":
        return matcher.grammar_from_lark(source)
    return matcher.grammar_from_json_schema(
        json.dumps(source), overrides={"whitespace_pattern": WHITESPACE}
    )
