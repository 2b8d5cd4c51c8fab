"""What stands on the wire: requests as they are read, replies as they are written.

base.py         what all of them share
chat.py         chat completions: what is asked
chat_reply.py   chat completions: what is answered, whole and in chunks
completions.py  raw completions
models.py       the list of models
"""
