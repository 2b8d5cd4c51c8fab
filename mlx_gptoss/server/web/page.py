"""Everything that the routes of the page share.

page = WebPage(models, Sessions.open(), PageKeys(read_secret(folder)))
app = create_app(models, settings, page)
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.server.drain import Drain
from mlx_gptoss.server.models import Models
from mlx_gptoss.server.policies import ServedPolicies
from mlx_gptoss.server.web.chat_settings import ChatSettings
from mlx_gptoss.server.web.conversations import Conversations
from mlx_gptoss.server.web.downloads import ModelLibrary
from mlx_gptoss.server.web.keys import PageKeys
from mlx_gptoss.server.web.memory_store import ChatStore
from mlx_gptoss.server.web.tools import ToolOffer

EPOCH_BYTES = 4
TICK_SECONDS = 1.0


class WebPage:
    """The page of one server. For one event loop.

    `store` keeps the conversations, `keys` decide who may use the page, `defaults` are
    the settings of new conversations, `params` their sampling beside the temperature,
    `offer` the tools they may use. `library` lists and downloads models. With `private`
    the browser is told to keep nothing, either. Tabs get figures every `tick` seconds.
    """

    def __init__(
        self,
        models: Models,
        store: ChatStore,
        keys: PageKeys,
        *,
        defaults: ChatSettings | None = None,
        params: SamplingParams | None = None,
        offer: ToolOffer | None = None,
        library: ModelLibrary | None = None,
        private: bool = False,
        tick: float = TICK_SECONDS,
    ) -> None:
        self.models = models
        self.store = store
        self.keys = keys
        self.defaults = defaults or ChatSettings()
        self.params = params or SamplingParams()
        self.offer = offer or ToolOffer()
        self.library = library
        self.private = private
        self.tick = tick
        self.drain = Drain()  # replaced by that of the app
        self.policies: ServedPolicies | None = None  # set by the app
        self.epoch = secrets.token_hex(EPOCH_BYTES)  # tells servers apart
        self.list_version = 0  # counts changes of the list of conversations
        self.conversations = Conversations(self)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def model_names(self) -> list[str]:
        """The names that a conversation may choose a model by."""
        return [choice.name for choice in self.models.choices]

    def start(self, drain: Drain) -> None:
        """The app starts: called in its event loop."""
        self.drain = drain
        self._loop = asyncio.get_running_loop()

    def in_loop(self, work: Callable[..., Any], *values: Any) -> None:
        """Call `work` in the event loop, from any thread."""
        loop = self._loop
        assert loop is not None, "the page has not been started"
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(work, *values)

    def list_changed(self) -> None:
        """Tell the tabs that the list of conversations has changed."""
        self.list_version += 1

    async def close(self) -> None:
        """Stop answers, tools and downloads."""
        await self.conversations.close()
        if self.library is not None:
            await asyncio.to_thread(self.library.stop)
