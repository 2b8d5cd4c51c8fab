"""Render messages as token ids, byte-identical to OpenAI's renderer."""
