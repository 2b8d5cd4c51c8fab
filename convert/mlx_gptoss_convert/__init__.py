"""Convert and requantize gpt-oss checkpoints; builds on `mlx_gptoss`, never the reverse."""
