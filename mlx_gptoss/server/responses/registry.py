"""Responses by id: those in progress, and those in the store.

    responses = ResponseRegistry(store)      # None: nothing outlives its request
    items = await responses.history(previous_response_id)
    response = responses.add(LiveResponse(...))      # can be retrieved and cancelled

Knows turns and the store; nothing of HTTP.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from mlx_gptoss.api.errors import ApiError, as_api_error, bad_request
from mlx_gptoss.api.responses.live import LiveResponse
from mlx_gptoss.api.responses.wire import ResponseReply
from mlx_gptoss.api.wire import JsonObject, StreamEvent
from mlx_gptoss.engine.outputs import CANCELLED
from mlx_gptoss.errors import StorageError
from mlx_gptoss.server.responses.store import ResponseStore, StoredResponse

log = logging.getLogger(__name__)

CANCEL_SECONDS = 5.0  # for a cancelled turn to end
NO_STORE = "this server stores no responses (--no-store)"
STORE_THREADS = 8  # they may block while another process locks the store
P = ParamSpec("P")
T = TypeVar("T")


class ResponseRegistry:
    """All responses of a server. Not thread-safe: for one event loop."""

    def __init__(self, store: ResponseStore | None = None) -> None:
        self.store = store
        self.running: dict[str, LiveResponse] = {}
        # Separate threads: a locked store must not exhaust the shared pool.
        self._threads = ThreadPoolExecutor(STORE_THREADS, "responses")

    def add(self, response: LiveResponse) -> LiveResponse:
        self.running[response.id] = response
        return response

    def remove(self, response: LiveResponse) -> None:
        """Remove a response that has ended. Idempotent."""
        response.ended.set()
        self.running.pop(response.id, None)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self.store is not None:
            self.store.close()

    async def history(self, previous: str | None) -> list[JsonObject]:
        """Return all items of a conversation up to the response `previous`."""
        if previous is None:
            return []
        if previous in self.running:
            raise bad_request(
                "the previous response is still in progress: wait for its end",
                param="previous_response_id",
            )
        store = self._require_store("previous_response_id")
        items = await self._in_thread(store.history, previous)
        if items is None:
            raise ApiError(
                400,
                "the previous response, or one before it, is not stored: send "
                "the items",
                "previous_response_not_found",
                "previous_response_id",
            )
        return items

    async def events(self, response: LiveResponse) -> AsyncIterator[StreamEvent]:
        """Yield all stream events of a response; a failure becomes the last one."""
        for event in response.output.begin():
            yield event
        try:
            async for parsed in response.turn:
                for event in response.feed(parsed):
                    yield event
            last = response.end()
        except Exception as error:
            last = response.output.fail(as_api_error(error))
        await self._finish(response)
        for event in last:
            if "response" in event:  # known only after saving
                event["response"]["store"] = response.output.reply.store
            yield event

    async def run_to_end(self, response: LiveResponse) -> ResponseReply:
        """Run a turn to its end and return the response."""
        response.output.begin()
        async for parsed in response.turn:
            response.feed(parsed)
        response.end()
        await self._finish(response)
        return response.output.reply

    async def snapshot(self, id: str) -> JsonObject:
        """Return the current state of a response. Raises ApiError (404)."""
        if id in self.running:
            return self.running[id].output.snapshot()
        return (await self._load(id)).reply

    async def input_items(self, id: str) -> list[JsonObject]:
        """Return a response's input items, including those of earlier responses."""
        if id in self.running:
            return self.running[id].items
        stored = await self._load(id)
        assert self.store is not None
        before = None
        if stored.previous is not None:
            before = await self._in_thread(self.store.history, stored.previous)
        return [*(before or []), *stored.items]

    async def cancel(self, id: str) -> JsonObject:
        """Cancel a response in progress. Idempotent."""
        response = self.running.get(id)
        if response is not None:
            response.turn.cancel()
            try:
                async with asyncio.timeout(CANCEL_SECONDS):
                    await response.ended.wait()
            except TimeoutError:  # its client does not read; it gets no more tokens
                return response.output.snapshot() | {"status": CANCELLED}
            return response.output.snapshot()
        found = (await self._load(id)).reply
        if found["status"] != CANCELLED:
            raise bad_request("the response has ended: there is nothing to cancel")
        return found

    async def delete(self, id: str) -> None:
        """Delete a response; one in progress is cancelled and not stored."""
        response = self.running.get(id)
        if response is not None:
            response.stored = False
            response.turn.cancel()
        elif self.store is None or not await self._in_thread(self.store.delete, id):
            raise not_found()

    async def _in_thread(
        self, work: Callable[P, T], /, *args: P.args, **options: P.kwargs
    ) -> T:
        """Run a store operation in a thread."""
        return await asyncio.wrap_future(self._threads.submit(work, *args, **options))

    async def _load(self, id: str) -> StoredResponse:
        found = None
        if self.store is not None:
            found = await self._in_thread(self.store.load, id)
        if found is None:
            raise not_found()
        return found

    def _require_store(self, param: str) -> ResponseStore:
        if self.store is None:
            raise bad_request(f"{NO_STORE}: send the items themselves", param=param)
        return self.store

    async def _finish(self, response: LiveResponse) -> None:
        """Store a response before its end is announced, so that clients find it."""
        await self._save(response)
        self.remove(response)

    async def _save(self, response: LiveResponse) -> None:
        """Store a response; on failure it is sent anyway, with `store: false`."""
        if not response.stored or self.store is None:
            return
        reply = response.output.snapshot()
        previous = response.output.reply.previous_response_id
        stored = StoredResponse(reply, response.items, previous, response.continues)
        try:
            response.stored = await self._in_thread(self.store.save, stored)
        except StorageError as error:
            log.error("a response could not be stored: %s", error)
            response.stored = False
        response.output.reply.store = response.stored


def not_found() -> ApiError:
    return ApiError(404, "there is no such response", "not_found", "response_id")
