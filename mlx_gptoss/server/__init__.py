"""HTTP server: the APIs of OpenAI and Anthropic over local gpt-oss models.

    from mlx_gptoss import load
    from mlx_gptoss.server.app import create_app
    from mlx_gptoss.server.models import Models

    app = create_app(Models.of(load("demo"), "demo"))     # for any ASGI server

app.py              the ASGI app: routes, middleware, error responses
service.py          shared by all routes: the life of one request
routes/             one file per API; a route parses a request, runs it, sends a reply
web/                the chat page
responses/          responses in progress and the stored ones
models.py           models by name: loaded on demand, unloaded when idle
adapters.py         the adapters of a folder, looked through again on demand
guard.py            hosts, origins, API keys, body limits
bodies.py           JSON bodies, parsed off the event loop when they are large
content_encoding.py compressed bodies
body_errors.py      what to tell a client whose body cannot be read
limited_body.py     limits of a body's size, and of the time it takes to arrive
body_budget.py      memory limit for all bodies being received
thread_pools.py     threads for parsing, rendering and compiling grammars
stream.py           server-sent events; client disconnects
metrics.py          Prometheus metrics
process.py          the process: sockets, signals, the ready file
running.py          the servers that run on this machine, for `ps` and `stop`
drain.py            graceful shutdown: reject new requests, abort running ones
connection.py       timeouts of client connections
socket_connection.py  limits of WebSockets
log_file.py         a log file that survives rotation and full disks

What clients send and get, without HTTP, is in `mlx_gptoss.api`. Importing this package
imports none of its modules. README.md lists routes, limits and security measures.
"""
