"""`mlx-gptoss completion`: the script by which a shell completes what is typed.

The scripts are click's. They call this program again, with the words typed so far in
environment variables.
"""

import click

PROGRAM = "mlx-gptoss"
VARIABLE = "_MLX_GPTOSS_COMPLETE"  # as click derives it from the program's name
# `eval` in a .zshrc may come before zsh's completion is started.
START_ZSH = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }"
# A comma in a word or in its summary is no separator.
FISH_SPLIT, FISH_SPLIT_ONCE = 'string split ","', 'string split --max 1 ","'


@click.command(short_help="Complete commands, models and sessions in a shell")
@click.argument("shell", type=click.Choice(["zsh", "bash", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete commands, models and sessions.

    Add the line of your shell to its settings, and open a new terminal.

    \b
    eval "$(mlx-gptoss completion zsh)"     # ~/.zshrc
    eval "$(mlx-gptoss completion bash)"    # ~/.bashrc, of bash 4.4 or newer
    mlx-gptoss completion fish | source     # ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, f"{shell=}"
    script = kind(context.find_root().command, {}, PROGRAM, VARIABLE).source()
    if shell == "zsh":
        first, _, rest = script.partition("\n")
        script = f"{first}\n{START_ZSH}\n{rest}"
    elif shell == "fish":
        script = script.replace(FISH_SPLIT, FISH_SPLIT_ONCE)
    click.echo(script)
