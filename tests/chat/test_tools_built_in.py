"""Built-in tools are called in the form the model was trained with."""

from mlx_gptoss.chat import Chat
from mlx_gptoss.chat.tools import Approval, Tool
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.harmony.built_in_tools import BROWSER, PYTHON
from mlx_gptoss.harmony.events import Answer, ToolCall, ToolResult
from mlx_gptoss.harmony.messages import Message, ToolDescription, reasoning, user
from mlx_gptoss.harmony.render.prompt import render_messages
from tests.support.fakes import AnsweringModel, answering, byte_tokenizer
from tests.support.tool_loop import BYE, FREE, add, results

TOKENIZER = byte_tokenizer()


# Built-in tools


class Shout:
    """Two built-in tools with a state, in the trained form."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.tools = [
            Tool(ToolDescription("python"), self.run, PYTHON, takes_text=True),
            Tool(
                ToolDescription("browser.find", parameters=BROWSER.tools[2].parameters),
                self.find,
                BROWSER,
            ),
        ]

    def run(self, code: str) -> str:
        self.heard.append(code)
        return code.upper()

    def find(self, pattern: str, cursor: int = -1) -> str:
        return f"{pattern} at {cursor}"

    def reset(self) -> None:
        self.heard.clear()


PYTHON_CALL = (
    "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    "<|channel|>analysis to=python code<|message|>print(1)<|call|>"
)
FIND_CALL = (
    '<|channel|>analysis to=browser.find code<|message|>{"pattern": "x"}<|call|>'
)


def test_built_in_tools_are_called_in_the_form_the_model_knows() -> None:
    shout = Shout()
    with answering(PYTHON_CALL, FIND_CALL, BYE) as runtime:
        params = SamplingParams(temperature=0)
        chat = Chat(runtime, tools=[add, shout], params=params, date="2026-01-02")

        events = list(chat.send("Go."))

        model = runtime.model
        assert isinstance(model, AnsweringModel)
        loop = [
            user("Go."),
            reasoning("Hm."),
            Message("assistant", "print(1)", "analysis", "python", "code"),
            Message("tool", "PRINT(1)", "analysis", "assistant", name="python"),
            Message(
                "assistant", '{"pattern": "x"}', "analysis", "browser.find", "code"
            ),
            Message("tool", "x at -1", "analysis", "assistant", name="browser.find"),
        ]
        prompt = TOKENIZER.decode(model.prompts[2])
        whole = [*chat.conversation[:2], *loop]
        assert prompt == TOKENIZER.decode(render_messages(whole, TOKENIZER))
    assert [e for e in events if isinstance(e, ToolCall | ToolResult)] == [
        ToolCall("call_1", "python", "print(1)"),
        ToolResult("call_1", "PRINT(1)"),
        ToolCall("call_2", "browser.find", '{"pattern": "x"}'),
        ToolResult("call_2", "x at -1"),
    ]
    assert Answer("B") in events
    # Declared in the system message; the developer message has only the function.
    system, developer = prompt.split("<|start|>developer")
    assert "# Tools\n\n## browser\n\n// Tool for browsing." in system
    assert "## python\n\nUse this tool to execute Python code" in system
    assert "Calls to these tools must go to the commentary channel" in system
    assert developer.count("=>") == 1 and "type add = " in developer


def test_a_built_in_tool_that_is_not_offered_cannot_be_called() -> None:
    call = "<|channel|>analysis to=python code<|message|>print(1)<|call|>"
    with answering(call, BYE) as runtime:
        params = SamplingParams(temperature=0)
        chat = Chat(runtime, tools=[add], params=params, constraints=FREE)

        [told] = results(chat, list(chat.send("Go.")))

    assert "there is no tool `python`" in told
    assert "## python" not in TOKENIZER.decode(
        render_messages(chat.conversation, TOKENIZER)
    )


def test_a_reset_chat_resets_what_its_tools_keep() -> None:
    shout = Shout()
    with answering(PYTHON_CALL, BYE) as runtime:
        chat = Chat(runtime, tools=[shout], params=SamplingParams(temperature=0))
        list(chat.send("Go."))
        assert shout.heard == ["print(1)"]

        chat.reset()

    assert shout.heard == []


def test_approval_holds_for_built_in_tools() -> None:
    shout = Shout()
    with answering(PYTHON_CALL, BYE) as runtime:
        chat = Chat(
            runtime,
            tools=[shout],
            params=SamplingParams(temperature=0),
            approve=Approval(by_tool={"python": "deny"}),
        )
        [told] = results(chat, list(chat.send("Go.")))

    assert told == "Error: the user does not allow calls of `python`"
    assert shout.heard == []
