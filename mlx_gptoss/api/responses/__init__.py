"""OpenAI's Responses.

wire.py               types of requests, items and replies
request.py            a request to what the model is asked
items.py              input items, of this or earlier responses, to Harmony messages
item_fields.py        fields of input items
tools.py              all tools of a request as functions, under unique names
tool_names.py         the names of tools, with and without namespaces
tool_descriptions.py  one tool as the model reads it
tool_choice.py        `tool_choice` in the form of chat completions
initial_reply.py      the response object before the answer begins
reply.py              events of an answer to a response and its stream
reply_items.py        output items while they stream
"""
