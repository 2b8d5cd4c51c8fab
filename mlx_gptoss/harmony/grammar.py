"""Grammars over a tokenizer: which tokens keep a text on the way to being valid.

JSON schemas, regular expressions, Lark and GBNF, by `llguidance`. A schema that
cannot be kept to the letter is refused before anything is generated:

    grammars = Grammars(tokenizer)
    grammar = grammars.compile("arguments", schema, what="the arguments of `f`")
    matcher = grammars.matcher(grammar)
    matcher.allowed(vocab_size)      # bool for every id
    matcher.feed(token)
    matcher.complete                 # the text so far may end here

Knows text tokens only; what ends a text is not its business.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import llguidance
import numpy as np

from mlx_gptoss.errors import SchemaError
from mlx_gptoss.harmony.any_order import any_order
from mlx_gptoss.harmony.gbnf import as_lark
from mlx_gptoss.tokenizer import Tokenizer

# Space between the parts of JSON: enough for deep indentation, never without end.
WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"
FORMATS = (  # of strings that are enforced
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
)
LENIENT = "x-guidance"  # the library's own key in a schema
VERBATIM = ("const", "enum", "default", "examples", LENIENT)  # no schemas
EXCLUSIVE = ("exclusiveMinimum", "exclusiveMaximum")  # numbers, no longer bools
BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
Kind = Literal["json_schema", "arguments", "regex", "lark", "grammar"]
REMEMBERED = 256  # grammars that were checked: a server reads many
QUIET = 0  # the log level at which the library prints nothing


class Grammars:
    """Compiles grammars for one tokenizer; one thread at a time may `compile`.

    The library takes a second or two to read a large vocabulary, once: `prepare`
    begins with it while other things are done.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._source = tokenizer
        self._checked: dict[tuple[str, str], str] = {}  # by kind and first form
        self._reading = threading.Lock()
        self._read: llguidance.LLTokenizer | None = None

    def compile(
        self,
        kind: Kind,
        source: Any,
        *,
        what: str,
        advice: str = "change it",
    ) -> str:
        """Return the library's form of a grammar.

        "arguments" is a JSON schema whose objects take their fields in any order.
        Raises SchemaError, which names `what`, the feature that is not supported, and
        what to do.
        """
        try:
            grammar = as_grammar(kind, source)
            found = self._checked.pop((kind, grammar), None)
            if found is None:
                check(grammar)
                free = _freed(source) if kind == "arguments" else None
                found = free or grammar
        except ValueError as error:
            raise SchemaError(
                f"{what} cannot be enforced ({error}): {advice}"
            ) from error
        self._checked[kind, grammar] = found
        if len(self._checked) > REMEMBERED:
            del self._checked[next(iter(self._checked))]
        return found

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
        found[self._end] = False
        allowed = np.zeros(size, bool)
        shared = min(size, len(found))
        allowed[:shared] = found[:shared]
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


def can_enforce(source: Any, kind: str = "json_schema") -> bool:
    """Whether a schema, or a grammar of another kind, can be kept to the letter."""
    try:
        check(as_grammar(kind, source))
    except ValueError:
        return False
    return True


def leniently(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of which what cannot be enforced is passed over, the rest is kept."""
    return {**schema, LENIENT: {"lenient": True}}


def as_grammar(kind: str, source: Any) -> str:
    """Write a grammar as the library wants it. Raises ValueError if it cannot be."""
    matcher = llguidance.LLMatcher
    if kind == "regex":
        return matcher.grammar_from_regex(source)
    if kind in ("lark", "grammar"):
        lark = as_lark(source) if kind == "grammar" else source
        return matcher.grammar_from_lark(lark)
    try:
        text = json.dumps(_understood(source))
    except TypeError as error:
        raise ValueError(str(error)) from error
    return matcher.grammar_from_json_schema(
        text, overrides={"whitespace_pattern": WHITESPACE}
    )


def _freed(schema: Any) -> str | None:
    """The grammar of a schema in any order of fields, or None."""
    given = schema.get(LENIENT, {}) if isinstance(schema, Mapping) else {}
    options = {**given, "whitespace_pattern": WHITESPACE}
    lark = any_order(_understood(schema), options=options)
    if lark is None:
        return None
    grammar = llguidance.LLMatcher.grammar_from_lark(lark)
    try:
        check(grammar)
    except ValueError:  # too large, so the order of the schema must do
        return None
    return grammar


def _understood(schema: Any) -> Any:
    return understood(schema, lenient=isinstance(schema, Mapping) and LENIENT in schema)


def check(grammar: str) -> None:
    """Raise ValueError, with the reason, for what the library cannot enforce."""
    failed, lines = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        raise ValueError(" ".join(" ".join(lines).split()))


def understood(schema: Any, *, lenient: bool = False) -> Any:
    """Return a schema without what the library would take wrongly.

    A format that nobody here knows is a remark to JSON Schema, and left out. Raises
    ValueError for keywords of older drafts that would be passed over in silence.
    """
    if isinstance(schema, list):
        return [understood(one, lenient=lenient) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "additionalItems" or (key in EXCLUSIVE and isinstance(value, bool)):
            if not lenient:
                raise ValueError(f"`{key}: {json.dumps(value)}` is of an old draft")
        elif key in VERBATIM:
            out[key] = value
        elif key in BY_NAME and isinstance(value, Mapping):
            out[key] = {
                name: understood(one, lenient=lenient) for name, one in value.items()
            }
        elif key != "format" or value in FORMATS:
            out[key] = understood(value, lenient=lenient)
    return out
