#!/usr/bin/env bash
# tokenizers 0.23.3: a TemplateProcessing post-processor and `add_special_tokens=False`.
#
# Guess: `encode(text, add_special_tokens=False)` gives the ids of the text and nothing
# else; a template is where special tokens are added.
# Seen: only the special tokens of the template are left out. Its sequences still stand
# as often as the template names them: `$A $A` gives every id twice.
#
# mlx_gptoss turns such post-processors off when it opens a tokenizer, and says so
# (mlx_gptoss/checkpoint/tokenizer/settings.py, tests/checkpoint/test_tokenizer_settings.py).
#
#     findings/tokenizers_template_without_specials.sh     # exit 0: as described
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    tokenizers==0.23.3 2> /dev/null

seen=$("$folder/env/bin/python" - <<'PYTHON'
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

tokenizer = Tokenizer(WordLevel({"a": 0, "b": 1, "[BOS]": 2}, unk_token="a"))
tokenizer.pre_tokenizer = Whitespace()
for single in ("[BOS] $A", "[BOS] $A $A"):
    tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[("[BOS]", 2)]
    )
    print(f"{single}: {tokenizer.encode('a b', add_special_tokens=False).ids}")
PYTHON
)
echo "tokenizers 0.23.3"
echo "expected: [0, 1] with both templates"
echo "seen:"
echo "$seen"
grep -qF '[BOS] $A: [0, 1]' <<< "$seen"
grep -qF '[BOS] $A $A: [0, 1, 0, 1]' <<< "$seen"
