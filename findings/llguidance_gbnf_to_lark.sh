#!/usr/bin/env bash
# llguidance 1.9.1: the grammars that `gbnf_to_lark` makes of valid GBNF.
#
# Guess: the translation accepts the same texts as the GBNF, as llama.cpp reads it.
# Seen: a rule made of characters alone becomes a terminal of the lexer, which is greedy.
# `root ::= word "b"` with `word ::= [a-z]*` then refuses `ab`: the terminal takes the
# `b`, too, and the `"b"` that must follow never comes. And an escape loses its leading
# zeros: `"caf\u00e9"` becomes `"caf\ue9"`, which is no escape.
#
# mlx_gptoss reads GBNF itself (mlx_gptoss/harmony/constrain/gbnf.py, tests/harmony/test_gbnf.py).
#
#     findings/llguidance_gbnf_to_lark.sh         # exit 0: as described
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    llguidance==1.9.1 2> /dev/null

cat > "$folder/try.py" <<'PYTHON'
import llguidance
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import gbnf_to_lark


class Bytes:
    """A vocabulary of the 256 bytes and an end."""

    tokens = [bytes([byte]) for byte in range(256)] + [b"<end>"]
    special_token_ids = [256]
    eos_token_id = 256
    bos_token_id = None

    def __call__(self, text):
        return list(text.encode() if isinstance(text, str) else text)


TOKENIZER = LLTokenizer(llguidance.TokenizerWrapper(Bytes()))


def takes(gbnf, text):
    lark = gbnf_to_lark(gbnf)
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_lark(lark), log_level=0)
    if matcher.is_error():
        return f"refused as a grammar; the translation: {lark.splitlines()[-1]}"
    read = all(matcher.consume_token(byte) for byte in text.encode())
    return "accepted" if read and matcher.is_accepting() else "refused"


print("ab:", takes('root ::= word "b"\nword ::= [a-z]*\n', "ab"))
print("café:", takes('root ::= "caf\\u00e9"\n', "café"))
print("control, ab:", takes('root ::= "a" "b"\n', "ab"))
PYTHON

seen=$("$folder/env/bin/python" "$folder/try.py")
echo "llguidance 1.9.1"
echo "expected: accepted, three times"
echo "seen:"
echo "$seen"
grep -q '^ab: refused$' <<< "$seen"
grep -q '^café: refused as a grammar' <<< "$seen"
grep -q '^control, ab: accepted' <<< "$seen"
