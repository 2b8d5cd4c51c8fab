"""Harmony's special tokens, by name. Their ids come from the tokenizer."""

START, END, MESSAGE, CHANNEL = "<|start|>", "<|end|>", "<|message|>", "<|channel|>"
CONSTRAIN, RETURN, CALL = "<|constrain|>", "<|return|>", "<|call|>"
END_OF_TEXT = "<|endoftext|>"
CLOSERS = (END, RETURN, CALL, END_OF_TEXT)  # end a message
