"""The HTTP server: OpenAI's API over one machine's own gpt-oss.

    from mlx_gptoss import load
    from mlx_gptoss.server.app import create_app
    from mlx_gptoss.server.models import Models

    app = create_app(Models.of(load("demo"), "demo"))     # any ASGI server runs it

app.py         the app: routes, error handlers, the guard around all
guard.py       who may ask: hosts, origins, keys, sizes
routes/        one file an API; a route reads a request, starts a turn, gives a reply
schema/        what stands on the wire
service.py     what all routes share; the life of one request
chat/          chat completions: requests to turns, what was said to replies
responses/     OpenAI's Responses: items, events, what is kept of them
messages/      Anthropic's Messages: content blocks and their events
completions.py raw completions
asking.py      parts of requests that several APIs share; limits.py checks their size
ask.py         what is wanted of the model, and the prompt it becomes
turn.py        one answer: a prompt in, tokens out; reading.py makes sense of them
models.py      models by name: loaded on demand, unloaded when idle or in the way
errors.py      every error as status, code and words for the client
ignored.py     what a request asks for and does not get
sealed.py      reasoning as an opaque text that clients keep and give back
stream.py      server-sent events; clients that leave
metrics.py     figures for Prometheus
settings.py    what the operator chose
running.py     the process: signals, draining, the ready file
connection.py  clients that do not read or say nothing

Importing this package imports none of it. README.md in this folder lists routes,
limits and what keeps the server safe.
"""
