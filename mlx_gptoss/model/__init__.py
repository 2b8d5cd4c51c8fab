"""gpt-oss in MLX: token ids in, logits out. Start with `gpt_oss.py`."""
