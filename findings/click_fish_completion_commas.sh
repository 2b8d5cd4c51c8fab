#!/usr/bin/env bash
# click 8.5.1: what fish completes where a value, or a summary, has a comma in it.
#
# Guess: the script that click writes for fish gives each completion as it is: a choice
# `4,8` is completed to `4,8`, as bash and zsh do, and is shown with its whole summary.
# Seen: the script splits `type,value<tab>summary` at every comma and keeps the second
# part, so that fish completes `4`, which the command then refuses, and a summary ends at
# its first comma.
#
# mlx_gptoss splits once (mlx_gptoss/cli/completion.py,
# tests/cli/test_completion_in_shells.py).
#
#     findings/click_fish_completion_commas.sh     # exit 0: as described; needs fish
set -euo pipefail

command -v fish > /dev/null || {
    echo "fish is not installed"
    exit 2
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check click==8.5.1 2> /dev/null

cat > "$folder/layers" << PYTHON
#!$folder/env/bin/python
import click

click.command()(
    click.option(
        "--keep",
        type=click.Choice(["4,8", "12"]),
        help="Layers, counted from 0, that stay",
    )(lambda keep: click.echo(keep))
)(prog_name="layers")
PYTHON
chmod +x "$folder/layers"
export PATH="$folder:$PATH"

by_fish() {
    fish --no-config -c '_LAYERS_COMPLETE=fish_source layers | source
        complete -C $argv[1]' "$1"
}
bash_reply() {
    bash --norc -c 'source <(_LAYERS_COMPLETE=bash_source layers)
        COMP_WORDS=(layers --keep 4); COMP_CWORD=2; _layers_completion layers
        echo "${COMPREPLY[@]}"'
}

echo "click 8.5.1, $(fish --version)"
echo "expected: 4,8 twice, and the whole summary"
echo "seen, bash: $(bash_reply)"
echo "seen, fish: $(by_fish 'layers --keep 4')"
echo "seen, fish: $(by_fish 'layers --ke')"
[ "$(bash_reply)" = "4,8" ]
[ "$(by_fish 'layers --keep 4')" = "4" ]
[ "$(by_fish 'layers --ke')" = "--keep"$'\t'"Layers" ]
grep -q "Invalid value" <<< "$(layers --keep 4 2>&1)"
