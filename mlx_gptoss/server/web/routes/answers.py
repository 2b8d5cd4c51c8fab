"""Questions and answers: send, edit, retry, branch, stop, decide about a call."""

import asyncio
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from mlx_gptoss.harmony.attached_files import file_label, with_file
from mlx_gptoss.harmony.render.encode import encode_within
from mlx_gptoss.harmony.render.pieces import Piece
from mlx_gptoss.server.bodies import JsonBodyRoute
from mlx_gptoss.server.web.access import page_of, session_of
from mlx_gptoss.server.web.chat_settings import (
    BranchedTurn,
    EditedQuestion,
    MeasuredText,
    SentDecision,
    SentFile,
    SentQuestion,
)
from mlx_gptoss.server.web.routes.chats import reply, state_of

router = APIRouter(include_in_schema=False, route_class=JsonBodyRoute)


@router.post("/web/chats")
async def begin_chat(body: SentQuestion, request: Request) -> JSONResponse:
    """Begin a conversation with its first question."""
    session, page = session_of(request), page_of(request)
    settings = body.settings or page.defaults.model_copy(deep=True)
    question = whole_question(body.text, body.files)
    made = await page.conversations.begin(question, settings, session)
    return reply(state_of(page, made))


@router.post("/web/chats/{id}/messages")
async def send(id: str, body: SentQuestion, request: Request) -> JSONResponse:
    """Ask the next question of a conversation."""
    session, page = session_of(request), page_of(request)
    question = whole_question(body.text, body.files)
    found = await page.conversations.ask(id, question, session)
    return reply(state_of(page, found))


@router.post("/web/chats/{id}/redo")
async def redo(id: str, body: EditedQuestion, request: Request) -> JSONResponse:
    """Ask another question at a turn, or the same again."""
    session, page = session_of(request), page_of(request)
    question = None if body.text is None else whole_question(body.text, body.files)
    found = await page.conversations.redo(id, body.turn, question, session)
    return reply(state_of(page, found))


@router.post("/web/chats/{id}/branch")
async def branch(id: str, body: BranchedTurn, request: Request) -> JSONResponse:
    """Begin a conversation that goes on behind a turn."""
    session_of(request)
    page = page_of(request)
    return reply(state_of(page, await page.conversations.branch(id, body.turn)))


@router.post("/web/chats/{id}/stop")
async def stop(id: str, request: Request) -> JSONResponse:
    """Stop the answer in progress; what has arrived is kept."""
    session_of(request)
    await page_of(request).conversations.stop(id)
    return reply({})


@router.post("/web/chats/{id}/approval")
async def decide(id: str, body: SentDecision, request: Request) -> JSONResponse:
    """Decide about the call that waits: once, always, no, never."""
    session, page = session_of(request), page_of(request)
    found = await page.conversations.open(id)
    found.approvals.decide(session, body.call, body.choice)
    return reply({})


@router.post("/web/tokens")
async def count(body: MeasuredText, request: Request) -> JSONResponse:
    """Count the tokens of a text; null while the model is not loaded."""
    session_of(request)
    models = page_of(request).models
    known = body.model in page_of(request).model_names
    name = models.resolve(body.model if known else None).model
    runtime = models.runtime(name)
    tokens: dict[str, Any] = {"tokens": None, "context": None}
    if runtime is not None:
        pieces = [Piece(body.text)]
        ids = await asyncio.to_thread(encode_within, pieces, runtime.tokenizer, None)
        tokens = {"tokens": len(ids), "context": runtime.longest_sequence}
    return reply(tokens)


def whole_question(text: str, files: Sequence[SentFile]) -> str:
    """Return a question with the files beside it, as the terminal attaches them."""
    for file in files:
        text = with_file(text, file_label(file.name), file.text)
    return text
