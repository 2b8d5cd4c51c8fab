"""`/v1/responses` as a WebSocket."""

from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from mlx_gptoss.server.responses.socket import PATH, ResponsesSocket


async def serve_responses(socket: WebSocket) -> None:
    """Answer requests that come as messages, one after the other."""
    await ResponsesSocket(socket).run()


# Not FastAPI's: it would apply the documentation's scheme of keys, which is HTTP's.
route = WebSocketRoute(PATH, serve_responses)
