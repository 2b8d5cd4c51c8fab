"""A chat session: the chat, its model, its tools, attached files, and its storage.

Everything that /commands change is here. Knows no terminal: approval questions go to
a given callback, and errors are raised.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_gptoss.cli.chat.approval import ApprovalPrompt, with_policy
from mlx_gptoss.cli.chat.files import ATTACHED, compose, read_file, with_file
from mlx_gptoss.cli.chat.model_too_large import explaining
from mlx_gptoss.cli.options import named_model
from mlx_gptoss.cli.tool_options import OpenTools, ToolOptions, open_tools
from mlx_gptoss.errors import GptOssError, PromptError, SessionError

if TYPE_CHECKING:
    from mlx_gptoss.chat import Chat
    from mlx_gptoss.chat.sessions import Sessions
    from mlx_gptoss.chat.tools.browser import Browser
    from mlx_gptoss.cli.services import Services
    from mlx_gptoss.engine.load_options import LoadOptions
    from mlx_gptoss.engine.outputs import Statistics
    from mlx_gptoss.engine.prompt_progress import OnPromptProgress
    from mlx_gptoss.engine.runtime import Runtime
    from mlx_gptoss.engine.sampling_params import SamplingParams
    from mlx_gptoss.harmony.constrain.constraints import Constraints
    from mlx_gptoss.harmony.events import Event, ToolCall


@dataclass(frozen=True)
class SessionOptions:
    """Options of a session at its start."""

    effort: str
    system: str | None
    params: "SamplingParams"
    constraints: "Constraints"
    overflow: str
    said: Mapping[str, Any] = field(default_factory=dict)  # overrides the saved one
    private: bool = False  # nothing is written


class ChatSession:
    """The current chat; `open_conversation` makes one."""

    def __init__(
        self,
        services: "Services",
        name: str,
        options: "LoadOptions",
        setup: SessionOptions,
        *,
        tools: OpenTools,
        on_progress: "OnPromptProgress | None",
        runtime: "Runtime",
        store: "Sessions | None",
        resources: ExitStack,
    ) -> None:
        self.services = services
        self.name = self.first_name = name  # of the model: a path or a Hub id
        self.options = options
        self.setup = setup
        self.given = tools
        self.on_progress = on_progress
        self.runtime = runtime
        self.store = store
        if store is not None:
            store.say = self._warn  # not in the middle of an answer
        self.lost_adapter: str | None = None  # of a resumed chat, if not loaded
        self.attached: list[tuple[str, str]] = []  # names and texts of files
        self._remarks: list[str] = []  # about the files of the last message
        self.stats: Statistics | None = None  # of the last answer
        self.used = 0  # tokens of the history
        self._problem = ""
        self._tools = resources
        self.chat = self._new()

    @property
    def model(self) -> str:
        """The short name of the model."""
        return self.name.rstrip("/").rpartition("/")[2]

    @property
    def browser(self) -> "Browser | None":
        return self.given.browser

    def send(self, text: str) -> "Generator[Event]":
        """Send `text` with the files it names and those attached.

        `take_remarks` then says which files went along, and which did not.
        """
        message, remarks = compose(
            text, self.attached, is_shown=self._is_shown, count=self._tokens
        )
        events = self.chat.send(message)
        self.attached, self._remarks = [], remarks
        return events

    def take_remarks(self) -> list[str]:
        """Return the remarks about the files of the last message, once."""
        remarks, self._remarks = self._remarks, []
        return remarks

    def attach(self, path: Path) -> str:
        """Attach a file to the next message, unless it is already; say which."""
        text = read_file(path)
        file = str(path), text
        if file in self.attached or self._is_shown(with_file("", *file)):
            return ATTACHED.format(path)
        self.attached.append(file)
        return f"{path} goes with your next message ({self._tokens(text):,} tokens)"

    def _is_shown(self, block: str) -> bool:
        """Say whether the model is shown a file in an earlier message."""
        earlier = self.chat.messages[self.chat.forgotten :]
        return any(one.role == "user" and block in one.text for one in earlier)

    def _tokens(self, text: str) -> int:
        from mlx_gptoss.harmony.render.encode import encode_within
        from mlx_gptoss.harmony.render.pieces import Piece

        runtime = self.runtime
        return len(encode_within([Piece(text)], runtime.tokenizer, runtime.context))

    def set_params(self, params: "SamplingParams") -> None:
        """Sample with other settings from the next answer on."""
        self.setup = replace(self.setup, params=params)
        self.chat.params = params

    def answered(self, stats: "Statistics | None") -> None:
        """Record an answer's statistics and the length of the history."""
        self.stats = stats or self.stats
        self.measure()

    def measure(self) -> None:
        """Count the tokens of the history."""
        from mlx_gptoss.harmony.render.prompt import render_messages

        shown = self.chat.conversation
        tokenizer = self.runtime.tokenizer
        self.used = len(render_messages(shown, tokenizer, complete=False))

    def set_policy(self, tool: str, policy: Any) -> None:
        """Set the approval policy of a tool."""
        self.given.approval = with_policy(self.given.approval, tool, policy)
        self.chat.toolbox.approval = self.given.approval

    def give_tools(self, options: ToolOptions) -> None:
        """Start more tools and offer them to the model."""
        more = self._tools.enter_context(
            open_tools(options, offline=self.options.offline, ask=self.given.ask)
        )
        before = self.given
        self.given = replace(
            before,
            tools=[*before.tools, *more.tools],
            browser=more.browser or before.browser,
        )
        try:
            self.restore(self.chat.to_json())
        except GptOssError:
            self.given = before
            raise

    def take_tools(self) -> None:
        """Remove all tools."""
        self.given = replace(self.given, tools=[], browser=None)
        self.restore(self.chat.to_json())
        self._tools.close()

    def restore(self, data: Mapping[str, Any], **said: Any) -> None:
        """Resume a saved chat, with the current tools."""
        options = self._chat_options() | said
        self.adopt(self.services.resume_chat(self.runtime, data, **options))
        wanted = data.get("adapter")
        lost = wanted not in (None, self.chat.adapter) and "adapter" not in said
        self.lost_adapter = wanted if lost else None

    @property
    def given_adapter(self) -> dict[str, Any]:
        """The active adapter as an option of `load`: it overrides the saved one."""
        name = self.runtime.adapter
        return {} if name is None else {"adapter": name}

    def use_adapter(self, name: str | None) -> None:
        """Answer with another adapter from now on. Raises ConfigError."""
        self.chat.adapter = name
        if self.chat.messages:
            self.save()

    def adopt(self, chat: "Chat") -> None:
        """Switch to another chat of this model."""
        self.chat, self.attached = chat, []
        self.measure()

    def start_anew(self) -> None:
        """Start a new conversation with the settings of this one."""
        self.chat.reset()
        self.attached = []
        self.measure()

    def load(self, wanted: str, **said: Any) -> None:
        """Resume a saved chat by its id, or the start of it."""
        self.restore(self.saved.load(wanted), **said)

    def load_last(self, **said: Any) -> None:
        """Resume the most recent chat."""
        latest = self.saved.list(1)
        if not latest:
            raise PromptError("no chat is saved yet: start one with `mlx-gptoss chat`")
        self.load(latest[0].id, **said)

    def save(self) -> None:
        """Save the chat, unless it is private. Raises SessionError."""
        if self.store is not None:
            self.store.save(self.chat)

    def take_problem(self) -> str:
        """Return the last problem with saving the chat, once."""
        problem, self._problem = self._problem, ""
        return problem

    @property
    def saved(self) -> "Sessions":
        """The store of chats. Raises PromptError if nothing is saved."""
        if self.store is not None:
            return self.store
        if self.setup.private:
            reason = "--private saves nothing"
        else:
            reason = "the saved chats could not be opened when this one began"
        raise PromptError(f"{reason}: /export writes this chat to a file")

    def switch_model(self, name: str) -> None:
        """Switch to another model, or back to this one if it cannot be loaded.

        The two are never in memory at the same time. Adapters belong to the model that
        they were given with.
        """
        name, own = named_model(name), self._options_of(self.name)
        options = self._options_of(name)
        with explaining(self.services, name, options):  # before anything is given up
            self.services.find(name, options)
        data = self.chat.to_json()
        self.runtime.close()
        try:
            self.runtime = self.services.open(name, options)
            self.name = name
        except BaseException:
            self.runtime = self.services.open(self.name, own)
            self.restore(data)
            raise
        self.restore(data)

    def _options_of(self, name: str) -> "LoadOptions":
        own = name == self.first_name
        return self.options if own else replace(self.options, adapters=())

    def _new(self) -> "Chat":
        return self.services.start_chat(
            self.runtime,
            effort=self.setup.effort,
            system=self.setup.system,
            **self._chat_options(),
        )

    def _chat_options(self) -> dict[str, Any]:
        return {
            "params": self.setup.params,
            "constraints": self.setup.constraints,
            "overflow": self.setup.overflow,
            "tools": self.given.tools,
            "approve": self.given.approval,
            "on_change": self._keep,
            "on_progress": self.on_progress,
        }

    def _keep(self, chat: "Chat") -> None:
        """Save a change; a full disk must not end the conversation."""
        if self.store is None:
            return
        try:
            self.store.save(chat)
        except SessionError as error:
            self._warn(str(error))

    def _warn(self, problem: str) -> None:
        self._problem = problem


@contextmanager
def open_conversation(
    services: "Services",
    model: str,
    options: "LoadOptions",
    setup: SessionOptions,
    tool_options: ToolOptions,
    *,
    ask: "Callable[[ToolCall], str]",
    store: "Sessions | None",
    on_progress: "OnPromptProgress | None" = None,
) -> Iterator[ChatSession]:
    """Start the tools and the model; stop both when the `with` ends."""
    conversation: ChatSession | None = None

    def set_policy(tool: str, policy: Any) -> None:
        assert conversation is not None
        conversation.set_policy(tool, policy)

    with ExitStack() as resources:
        given = resources.enter_context(
            open_tools(
                tool_options,
                offline=options.offline,
                ask=ApprovalPrompt(ask, set_policy),
            )
        )
        with explaining(services, model, options):
            runtime = services.open(model, options)
        if len(options.adapters) == 1:  # there is no other to choose
            runtime.use_adapter(options.adapter_sources[0].name)
        try:
            conversation = ChatSession(
                services,
                model,
                options,
                setup,
                tools=given,
                on_progress=on_progress,
                runtime=runtime,
                store=store,
                resources=resources,
            )
            yield conversation
        finally:
            (conversation.runtime if conversation else runtime).close()
