"""Requests and replies of each API, translated to and from Harmony; no HTTP.

chat/          OpenAI's chat completions
responses/     OpenAI's Responses: items, tools, events
messages/      Anthropic's Messages: content blocks and their events
completions/   raw completions
lmstudio/      LM Studio's: OpenAI's replies with statistics; its lists of models
ollama/        Ollama's chat and generate, read as those of OpenAI; its lists of models
models/        the list of models, and health

Each of these has wire.py (types of requests and replies), request.py (a request to
what the model is asked) and reply.py (an answer to a reply, whole or streamed), as far
as it needs them. Shared by all:

wire.py        base classes of wire types; sampling_fields.py, fields of several APIs
aliases.py     fields of other servers, and the own field each one means
normalize.py   a request body rewritten by that table
ignored.py     the header that names what a request asked for without effect
options.py     request options of several APIs; limits.py checks sizes
prompt.py      a conversation to answer, and the prompts it becomes
generation.py  an answer, streamed from the model's thread; reply_parser.py parses it
call_arguments.py  arguments of a call as an object
errors.py      every error as status, type, code and message
settings.py    the operator's settings
"""
