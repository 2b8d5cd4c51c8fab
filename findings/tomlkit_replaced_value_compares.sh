#!/usr/bin/env bash
# tomlkit 0.15.2: two documents compared once a value of one was replaced.
#
# Guess: `a != b` is `not a == b`, for documents as for every mapping of Python; a
# document with a replaced value equals the document read from what it writes.
# Seen: after `document["model"] = "b"` it is both equal and unequal to it: `==` goes by
# the new value, `!=` is the one of `dict`, which still holds the old. A value that is
# new, not replaced, is compared well, so that a test without the key shows nothing.
#
# mlx_gptoss compares plain values and changes TOML without it
# (mlx_gptoss/diagnostics/agents/settings/toml_format.py, tests/diagnostics/test_agents_settings.py).
#
#     findings/tomlkit_replaced_value_compares.sh      # exit 0: as described
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    tomlkit==0.15.2 2> /dev/null

seen=$("$folder/env/bin/python" - <<'PYTHON'
import tomlkit


def compare(title, text):
    document = tomlkit.parse(text)
    document["model"] = "b"
    again = tomlkit.parse(tomlkit.dumps(document))
    print(f"{title}: == {document == again}, != {document != again}, "
          f"plain == {document.unwrap() == again.unwrap()}")


compare("replaced", 'model = "a"\n')
compare("added", 'other = "a"\n')
PYTHON
)
echo "tomlkit 0.15.2"
echo "expected: == True, != False, plain == True, twice"
echo "seen:"
echo "$seen"
grep -qF 'replaced: == True, != True, plain == True' <<< "$seen"
grep -qF 'added: == True, != False, plain == True' <<< "$seen"
