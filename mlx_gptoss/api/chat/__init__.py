"""OpenAI's chat completions over turns.

asking.py   a request to what the model is asked
manner.py   how the replies to one request are written
output.py   what is heard to a message, whole or in chunks
"""
