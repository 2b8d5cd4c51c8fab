"""What stands on the wire: requests as they are read, replies as they are written.

base.py         what all of them share
chat.py         chat completions: what is asked
chat_reply.py   chat completions: what is answered, whole and in chunks
completions.py  raw completions
responses.py    Responses: what is asked
responses_reply.py  Responses: what is answered
messages.py     Anthropic's Messages: what is asked
messages_reply.py   Anthropic's Messages: what is answered
models.py       the list of models
"""
