"""Harmony, the conversation format of gpt-oss: render, parse, events.

Token ids in and out, over any tokenizer that knows the special tokens by name;
knows nothing of models. See `render.py` and `parse.py`.
"""
