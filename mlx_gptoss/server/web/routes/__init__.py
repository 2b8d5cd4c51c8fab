"""The routes of the page: one file per kind of request."""

from mlx_gptoss.server.web.routes import (
    answers,
    assets,
    chats,
    events,
    models,
    session,
)

PAGE_ROUTERS = (
    assets.router,
    session.router,
    chats.router,
    answers.router,
    events.router,
    models.router,
)
