"""Anthropic's Messages over turns.

asking.py   a request to what the model is asked
blocks.py   messages of content blocks to a conversation
output.py   what is heard to content blocks and to the events of a stream
"""
