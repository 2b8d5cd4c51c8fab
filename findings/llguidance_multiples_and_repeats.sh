#!/usr/bin/env bash
# llguidance 1.9.1: values and repeats that JSON Schema and Lark allow.
#
# Guesses: under {"type": "number", "multipleOf": 5} the number 10.0 may be written, and
# 1.50 under a multiple of 0.5, as `jsonschema` calls them valid; under {"type": "string"}
# every escape of JSON may be; `x{0,0}` in Lark is the empty text, as `x{0,1}` is at most
# one.
# Seen: a multiple is compared as it is spelled (10 and 1.5 are taken), the escapes `\/`
# and `\u0041` are refused, and `{0,0}` is an error.
#
# mlx_gptoss writes the grammars of schemas itself (mlx_gptoss/harmony/constrain/schema/compile.py,
# tests/harmony/test_grammar_values.py).
#
#     findings/llguidance_multiples_and_repeats.sh     # exit 0: as described
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    llguidance==1.9.1 jsonschema==4.26.0 2> /dev/null

cat > "$folder/try.py" <<'PYTHON'
import json

import jsonschema
import llguidance
from llguidance import LLMatcher, LLTokenizer


class Bytes:
    """A vocabulary of the 256 bytes and an end."""

    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]
    special_token_ids = [256]
    eos_token_id = 256
    bos_token_id = None

    def __call__(self, text):
        return list(text.encode() if isinstance(text, str) else text)


TOKENIZER = LLTokenizer(llguidance.TokenizerWrapper(Bytes()))


def takes(grammar, text):
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    if matcher.is_error():
        return f"error: {matcher.get_error().splitlines()[0]}"
    read = all(matcher.consume_token(byte) for byte in text.encode())
    return "accepted" if read and matcher.is_accepting() else "refused"


for schema, text in [
    ({"type": "number", "multipleOf": 5}, "10"),
    ({"type": "number", "multipleOf": 5}, "10.0"),
    ({"type": "number", "multipleOf": 0.5}, "1.50"),
    ({"type": "string"}, r'"a\/b"'),
    ({"type": "string"}, r'"\u0041"'),
]:
    jsonschema.validate(json.loads(text), schema)  # raises if it is not valid
    grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema))
    print(f"{json.dumps(schema)} {text}: {takes(grammar, text)}")
for repeat in ("{0,1}", "{0,0}"):
    grammar = LLMatcher.grammar_from_lark(f'start: "a" x{repeat}\nx: "b"\n')
    print(f'"a" x{repeat}, a: {takes(grammar, "a")}')
PYTHON

seen=$("$folder/env/bin/python" "$folder/try.py")
echo "llguidance 1.9.1"
echo "expected: accepted, seven times"
echo "seen:"
echo "$seen"
[ "$(grep -c ': accepted$' <<< "$seen")" = 2 ]
[ "$(grep -c ': refused$' <<< "$seen")" = 4 ]
grep -q '{0,0}, a: error' <<< "$seen"
