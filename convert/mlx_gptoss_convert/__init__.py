"""Convert and requantize gpt-oss checkpoints; imports `mlx_gptoss`, never back."""

import mlx_gptoss  # noqa: F401 - former import paths are found through it
