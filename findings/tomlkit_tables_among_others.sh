#!/usr/bin/env bash
# tomlkit 0.15.2: a table put among others that stand apart, or that dotted keys make.
#
# Guess: after `document["a"]["new"] = {}` and `document["a"]["new"]["k"] = 3` a valid
# document writes what it holds, and nothing of it changes place.
# Seen: where `[a.x]` and `[a.y]` have another table between them, the key set on the
# fetched table is neither in the document nor in its text; where `a.x.n = 1` makes the
# table, the header `[a.new]` is written in front of `b = 2`, which then belongs to it.
# (The second is known there: python-poetry/tomlkit, pull request 588.)
#
# Both are shapes of Codex's config.toml. mlx_gptoss puts settings into the text itself
# (mlx_gptoss/diagnostics/agents/settings/toml_format.py, tests/diagnostics/test_agents_settings.py).
#
#     findings/tomlkit_tables_among_others.sh      # exit 0: as described
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    tomlkit==0.15.2 2> /dev/null

seen=$("$folder/env/bin/python" - <<'PYTHON'
import tomllib

import tomlkit


def add(title, text):
    document = tomlkit.parse(text)
    tables = document["a"]
    tables["new"] = {}
    tables["new"]["k"] = 3
    print(f"{title}: {tomllib.loads(tomlkit.dumps(document))}")


add("together", "[a.x]\nn = 1\n[a.y]\nn = 2\n[other]\nk = 1\n")
add("apart", "[a.x]\nn = 1\n[other]\nk = 1\n[a.y]\nn = 2\n")
add("dotted", "a.x.n = 1\nb = 2\n")
PYTHON
)
echo "tomlkit 0.15.2"
echo "expected: 'new': {'k': 3} beside the rest, three times; 'b' at the root"
echo "seen:"
echo "$seen"
grep -q "^together: .*'new': {'k': 3}" <<< "$seen"
grep -q "^apart: .*'new': {}" <<< "$seen"
grep -qF "dotted: {'a': {'x': {'n': 1}, 'new': {'k': 3, 'b': 2}}}" <<< "$seen"
