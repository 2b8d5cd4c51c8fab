"""Other people's suites over a scripted model: what fails is known, with its reason.

llm-comply is of the extra `clients`; llmprobe is npm's, in the folder that
MLX_GPTOSS_NODE names. Where one is missing its test is skipped and says so. The tables
are those of the server's README, which must say the same.
"""

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlx_gptoss.api.settings import OPEN_RESPONSES, ServerSettings
from tests.support.answering_app import obliging
from tests.support.live import Live, live
from tests.support.serve_process import run
from tests.support.serving import DATE

README = Path(__file__).parents[2] / "mlx_gptoss" / "server" / "README.md"
SCRIPT = Path(__file__).parents[1] / "support" / "ai_sdk.mjs"
NODE = Path(os.environ.get("MLX_GPTOSS_NODE", "node-clients"))
# A name of models that reason, by which llm-comply runs its tests of reasoning, too.
MODEL = "claude-4-gpt-5"

TEXT_ONLY = "gpt-oss reads text"
NO_MODEL = "a request that names no model means the first"
COMPLY = [sys.executable, "-m", "llm_comply.cli", "--json", "-k", "none", "-m", MODEL]
ANTHROPIC = (
    *("--auth-header", "x-api-key", "--no-bearer"),
    *("-H", "anthropic-version:2023-06-01"),
)
# By format: more arguments, and what fails.
COMPLIES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "open-responses": ((), {"image-input": TEXT_ONLY, "error-handling": NO_MODEL}),
    "openai-chat": (
        (),
        {"chat-image-input": TEXT_ONLY, "chat-error-handling": NO_MODEL},
    ),
    "anthropic": (ANTHROPIC, {"anth-image-input": TEXT_ONLY}),
}
PROBE_FAILURES: dict[str, str] = {}


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    settings = ServerSettings(date=DATE, reasoning_events=OPEN_RESPONSES)
    with obliging() as runtime, live(runtime, settings, name=MODEL) as it:
        yield it


@pytest.fixture(scope="module")
def agreeing() -> Iterator[Live]:
    """A server whose model answers once it has the result of its call."""
    settings = ServerSettings(date=DATE)
    with obliging(once=True) as runtime, live(runtime, settings) as it:
        yield it


def told(suite: str) -> str:
    """What the README says of a suite: `8 of 9`."""
    found = re.search(
        rf"^\| {re.escape(suite)} \|.*?(\d+ of \d+)", README.read_text(), re.M
    )
    assert found, suite
    return found[1]


@pytest.mark.parametrize("format", COMPLIES)
def test_llm_comply_fails_only_where_it_must(server: Live, format: str) -> None:
    if importlib.util.find_spec("llm_comply") is None:
        pytest.skip("pip install 'mlx-gptoss[clients]'")
    more, known = COMPLIES[format]
    done = run([*COMPLY, "-u", f"{server.url}/v1", "--format", format, *more])

    assert done.stdout, done.stderr
    results = json.loads(done.stdout)["results"]
    failed = {one["id"]: one for one in results if one["status"] != "passed"}
    assert failed.keys() == known.keys(), failed
    passed = f"{len(results) - len(failed)} of {len(results)}"
    assert passed == told(f"llm-comply, {format}")


def test_llmprobe_fails_only_where_it_must(server: Live, tmp_path: Path) -> None:
    program = NODE.absolute() / "node_modules" / ".bin" / "llmprobe"
    if not program.exists() or shutil.which("node") is None:
        pytest.skip("npm install llmprobe, in a folder that MLX_GPTOSS_NODE names")
    arguments = ("--quick", "--no-bench", "--no-save", "--json", "-m", MODEL)
    environment = os.environ | {"HOME": str(tmp_path)}
    done = run(["node", program, server.url, *arguments], env=environment)

    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["conformance"]
    judged = [one for one in found["results"] if one["outcome"] in ("pass", "fail")]
    failed = {one["id"]: one for one in judged if one["outcome"] == "fail"}
    assert failed.keys() == PROBE_FAILURES.keys(), failed
    assert found["inconclusive"] == []
    passed = f"{found['passed']} of {found['total']}"
    assert passed == told("llmprobe, quick")


def test_the_ai_sdk_talks_calls_and_makes_objects(agreeing: Live) -> None:
    """Its providers for OpenAI's two APIs, compatible servers, and Anthropic's."""
    if not (NODE.absolute() / "node_modules" / "@ai-sdk" / "openai").exists():
        pytest.skip("npm install ai @ai-sdk/openai … (.ci/run names the versions)")
    done = run(["node", SCRIPT, NODE.absolute(), agreeing.url, "none"])

    said = "Yes, it is."
    expected = {
        "text": said,
        "streamed": said,
        "tokens": True,
        "tools": said,
        "agent": said,
        "cities": ["Paris", "Paris"],
        "object": {"city": "Oslo"},
    }
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    reasons = {name: answers.pop("reasons", None) for name, answers in found.items()}
    assert found == dict.fromkeys(
        ("responses", "chat", "compatible", "anthropic"), expected
    )
    assert reasons["compatible"] is True
