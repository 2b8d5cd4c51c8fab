"""`python -m mlx_gptoss`: the mlx-gptoss command, where its script is not on PATH."""

from mlx_gptoss.cli import cli

if __name__ == "__main__":
    cli(prog_name="mlx-gptoss")
