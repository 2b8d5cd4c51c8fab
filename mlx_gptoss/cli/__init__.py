"""The mlx-gptoss command."""
