#!/usr/bin/env bash
# ruamel.yaml 0.19.1: where the events say that an empty value stands.
#
# Guess: `a:` without a value is an empty scalar right behind its colon, as in PyYAML,
# whose parser ruamel.yaml began with; to give it a value, put one there.
# Seen: its mark is where the next token begins, behind line end and comment: at the key
# that follows, on another line. A value put there becomes a part of that key.
#
# mlx_gptoss finds the colon itself (mlx_gptoss/diagnostics/agents/settings/yaml_format.py,
# tests/diagnostics/test_agents_settings.py).
#
#     findings/ruamel_yaml_place_of_nothing.sh     # exit 0: as described
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check \
    ruamel.yaml==0.19.1 pyyaml==6.0.4 2> /dev/null

seen=$("$folder/env/bin/python" - <<'PYTHON'
import yaml
from ruamel.yaml import YAML

TEXT = "a:   # c\nb: 1\n"


def place(events):
    values = [event for event in events if type(event).__name__ == "ScalarEvent"]
    return values[1].start_mark.index


print("PyYAML:", place(yaml.parse(TEXT)))
print("ruamel.yaml:", place(YAML(typ="safe", pure=True).parse(TEXT)))
PYTHON
)
echo "ruamel.yaml 0.19.1, PyYAML 6.0.4"
echo "expected: 2, behind the colon, twice"
echo "seen:"
echo "$seen"
grep -qx 'PyYAML: 2' <<< "$seen"
grep -qx 'ruamel.yaml: 9' <<< "$seen"
