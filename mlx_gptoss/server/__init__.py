"""The HTTP server: OpenAI's API over one machine's own gpt-oss.

    from mlx_gptoss import load
    from mlx_gptoss.server.app import create_app
    from mlx_gptoss.server.models import Models

    app = create_app(Models.of(load("demo"), "demo"))     # any ASGI server runs it

app.py       the app: routes, error handlers, the guard around all
routes/      one file an API; a route reads a request, starts a turn, gives a reply
schema/      what stands on the wire
turn.py      one answer: a conversation in, what the model says out; no wire types
chat/        chat completions: requests to turns, what was said to replies
responses/   OpenAI's Responses: items, events, what is kept of them
messages/    Anthropic's Messages: content blocks and their events
sealed.py    reasoning as an opaque text that clients keep and give back
models.py    models by name: loaded on demand, unloaded when idle or in the way
errors.py    every error as status, code and words for the client
stream.py    server-sent events; clients that left or do not read
guard.py     who may ask: hosts, origins, keys, sizes
ignored.py   what a request asks for and does not get
settings.py  what the operator chose
running.py   the process: signals, draining, the ready file

Importing this package imports none of it. README.md in this folder lists routes,
limits and what keeps the server safe.
"""
