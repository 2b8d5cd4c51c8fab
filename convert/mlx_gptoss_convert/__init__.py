"""Convert and requantize gpt-oss checkpoints. Imports `mlx_gptoss`, not the reverse."""

import mlx_gptoss  # noqa: F401 - former import paths are found through it
