"""Convert and requantize gpt-oss checkpoints; imports `mlx_gptoss`, never back."""
