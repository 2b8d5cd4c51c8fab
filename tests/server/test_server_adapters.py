"""Adapters over HTTP: `BASE:NAME` on every API, in one batch, from a folder."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from mlx_gptoss import load
from mlx_gptoss.api.errors import ApiError
from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.cli.serve_setup import sources_of
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.engine.runtime import Runtime
from mlx_gptoss.engine.sampling_params import SamplingParams
from mlx_gptoss.errors import StorageError
from mlx_gptoss.server.adapters import AdapterFolder
from mlx_gptoss.server.app import create_app
from mlx_gptoss.server.models import ModelChoice, Models, ModelSource
from tests.support.adapters import ALL, STRONG, write_random_adapter
from tests.support.serving import DATE, events

PROMPT = [(n * 37) % 500 + 20 for n in range(30)]
TOKENS = 12
GREEDY = SamplingParams(temperature=0, max_tokens=TOKENS)
MESSAGES = [{"role": "user", "content": "What is 417 + 285?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    with load("demo") as runtime:
        config = runtime.config
    write_random_adapter(folder / "one", config, 1, targets=ALL)
    write_random_adapter(folder / "two", config, 2, "mlx-lm", targets=STRONG, size=2.0)
    return folder


@pytest.fixture(scope="module")
def runtime(folder: Path) -> Iterator[Runtime]:
    given = [f"{name}={folder / name}" for name in ("one", "two")]
    with load("demo", adapters=given) as runtime:
        yield runtime


@asynccontextmanager
async def client_of(models: Models) -> AsyncIterator[httpx2.AsyncClient]:
    app = create_app(models, ServerSettings(date=DATE))
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(
        transport=transport, base_url="http://localhost", timeout=60
    ) as client:
        yield client


def models_of(runtime: Runtime, name: str = "demo") -> Models:
    return Models.of(runtime, name)


def completion(model: str) -> dict[str, Any]:
    limits = {"max_tokens": TOKENS, "temperature": 0}
    return {"model": model, "prompt": PROMPT, **limits}


BODIES = {
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 40},
    "/v1/responses": {"input": "What is 417 + 285?", "max_output_tokens": 40},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": 40},
    "/v1/completions": {"prompt": PROMPT, "max_tokens": TOKENS},
}


def said(reply: dict[str, Any]) -> str:
    """All that the model said in a reply of any API, without ids and times."""
    found = reply.get("choices") or reply.get("output") or reply["content"]
    text = json.dumps(found)
    ids = [str(one.get("id")) for one in found if isinstance(one, dict)]
    for one in ids:
        text = text.replace(one, "ID")
    return text


@pytest.mark.parametrize("path", BODIES)
def test_every_api_takes_an_adapter_in_the_name_of_the_model(
    runtime: Runtime, path: str
) -> None:
    async def work() -> list[dict[str, Any]]:
        async with client_of(models_of(runtime)) as client:
            names = ("demo", "demo:one", "demo:two", "demo:one", "demo")
            replies = await asyncio.gather(
                *(
                    client.post(
                        path, json={"model": name, "temperature": 0, **BODIES[path]}
                    )
                    for name in names
                )
            )
            assert [one.status_code for one in replies] == [200] * len(names)
            assert [one.json()["model"] for one in replies] == list(names)
            return [one.json() for one in replies]

    base, one, two, again, same = map(said, asyncio.run(work()))
    assert len({base, one, two}) == 3
    assert (again, same) == (one, base)


def test_what_is_served_is_what_the_adapter_says(runtime: Runtime) -> None:
    async def work() -> list[str]:
        async with client_of(models_of(runtime)) as client:
            names = ["demo", "demo:one", "demo:two"] * 4
            replies = await asyncio.gather(
                *(client.post("/v1/completions", json=completion(n)) for n in names)
            )
            return [one.json()["choices"][0]["text"] for one in replies]

    found = asyncio.run(work())
    right = []
    for name in (None, "one", "two"):
        ids = [s.token for s in runtime.generate(PROMPT, GREEDY, adapter=name)]
        stops = set(runtime.stop_tokens)
        right.append(runtime.tokenizer.decode([t for t in ids if t not in stops]))
    assert found == right * 4
    assert max(runtime.batch_statistics.batch_sizes) > 3


def test_streams_name_the_adapter(runtime: Runtime) -> None:
    async def work() -> str:
        async with client_of(models_of(runtime)) as client:
            body = {**completion("demo:two"), "stream": True}
            return (await client.post("/v1/completions", json=body)).text

    assert {one["model"] for one in events(asyncio.run(work()))} == {"demo:two"}


def test_the_list_has_each_adapter_behind_its_model(runtime: Runtime) -> None:
    async def work() -> tuple[Any, Any]:
        async with client_of(models_of(runtime)) as client:
            listed = await client.get("/v1/models")
            one = await client.get("/v1/models/demo:one")
            return listed.json()["data"], one.json()

    listed, one = asyncio.run(work())
    assert [(each["id"], each["parent"]) for each in listed] == [
        ("demo", None),
        ("demo:one", "demo"),
        ("demo:two", "demo"),
    ]
    assert one == listed[1]


def resolve(models: Models, name: str | None) -> ModelChoice | int:
    try:
        return models.resolve(name)
    except ApiError as error:
        return error.status


def test_what_follows_the_last_colon_is_an_adapter_only_if_it_is_loaded(
    runtime: Runtime,
) -> None:
    named = models_of(runtime, "gpt-oss:20b")

    assert resolve(named, "gpt-oss:20b") == ModelChoice("gpt-oss:20b")
    assert resolve(named, "gpt-oss:20b:one") == ModelChoice("gpt-oss:20b", "one")
    assert resolve(named, None) == ModelChoice("gpt-oss:20b")
    for wrong in ("gpt-oss:one", "gpt-oss", ":one", "one", "gpt-oss:20b:three"):
        assert resolve(named, wrong) == 404
    assert ModelChoice("gpt-oss:20b", "one").name == "gpt-oss:20b:one"


def test_any_model_name_may_have_an_adapter_if_any_is_accepted(
    runtime: Runtime,
) -> None:
    source = ModelSource("demo", lambda: runtime)
    models = Models([source], any_model=True)
    models.adopt("demo", runtime)

    assert resolve(models, "gpt-4o") == ModelChoice("demo")
    assert resolve(models, "gpt-4o:two") == ModelChoice("demo", "two")
    assert resolve(models, "gpt-4o:2024") == ModelChoice("demo")


@pytest.mark.parametrize(
    "name", ["demo:../one", "demo:/etc", "demo:./one", "demo:", "demo:one/", "demo:ONE"]
)
def test_no_path_names_an_adapter(runtime: Runtime, folder: Path, name: str) -> None:
    async def work() -> httpx2.Response:
        async with client_of(models_of(runtime)) as client:
            return await client.post("/v1/completions", json=completion(name))

    reply = asyncio.run(work())
    assert (reply.status_code, reply.json()["error"]["code"]) == (
        404,
        "model_not_found",
    )
    assert str(folder) not in reply.text
    assert "`demo`, `demo:one`, `demo:two`" in reply.text


def test_the_active_adapter_does_not_answer_for_the_model_itself(
    runtime: Runtime,
) -> None:
    async def text() -> str:
        async with client_of(models_of(runtime)) as client:
            reply = await client.post("/v1/completions", json=completion("demo"))
            return reply.json()["choices"][0]["text"]

    before = asyncio.run(text())
    runtime.use_adapter("one")
    try:
        assert asyncio.run(text()) == before
    finally:
        runtime.use_adapter(None)


# A folder of adapters


class Folder:
    """A server of the demo model with `--adapters`."""

    def __init__(self, path: Path, *adapters: str) -> None:
        options = LoadOptions(adapters=adapters, harmony=True)
        sources = sources_of(["demo"], options, Services(), path)
        self.models = Models(sources)

    async def listed(self, client: httpx2.AsyncClient) -> list[str]:
        reply = await client.get("/v1/models")
        return [one["id"] for one in reply.json()["data"]]


async def answers(client: httpx2.AsyncClient, model: str) -> str:
    reply = await client.post("/v1/completions", json=completion(model))
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["text"]


def test_a_folder_is_looked_through_again_for_the_list(
    folder: Path, tmp_path: Path, runtime: Runtime
) -> None:
    shutil.copytree(folder / "one", tmp_path / "one")
    (tmp_path / "notes").mkdir()
    served = Folder(tmp_path)

    async def work() -> None:
        async with client_of(served.models) as client:
            assert await served.listed(client) == ["demo", "demo:one"]  # not loaded yet
            first = await answers(client, "demo:one")
            base = await answers(client, "demo")
            assert first != base
            shutil.copytree(folder / "two", tmp_path / "new")
            missing = await client.post("/v1/completions", json=completion("demo:new"))
            assert missing.status_code == 404
            assert await served.listed(client) == ["demo", "demo:new", "demo:one"]
            second = await answers(client, "demo:new")
            assert second not in (first, base)

            shutil.rmtree(tmp_path / "one")
            shutil.rmtree(tmp_path / "new")
            shutil.copytree(folder / "two", tmp_path / "one")
            assert await served.listed(client) == ["demo", "demo:one"]
            assert await answers(client, "demo:one") == second
            shutil.rmtree(tmp_path / "one")
            assert await served.listed(client) == ["demo"]
            assert await answers(client, "demo") == base
        await served.models.close()

    asyncio.run(work())


def test_an_adapter_that_cannot_be_used_is_logged_and_the_old_one_stays(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(folder / "one", tmp_path / "one")
    shutil.copytree(folder / "two", tmp_path / "cut")
    weights = tmp_path / "cut" / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    served = Folder(tmp_path)

    async def work() -> None:
        async with client_of(served.models) as client:
            before = await answers(client, "demo:one")
            assert await served.listed(client) == ["demo", "demo:one"]
            assert "the adapter `cut` is not served" in caplog.text
            caplog.clear()
            await served.listed(client)
            assert caplog.text.count("not served") == 0  # it was said already

            own = tmp_path / "one" / "adapter_model.safetensors"
            own.write_bytes(own.read_bytes()[:-100])
            assert await served.listed(client) == ["demo", "demo:one"]
            assert "the adapter `one` is not served" in caplog.text
            assert await answers(client, "demo:one") == before
        await served.models.close()

    asyncio.run(work())


def test_an_adapter_given_by_name_goes_before_that_in_the_folder(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "two", tmp_path / "one")
    served = Folder(tmp_path, f"one={folder / 'one'}")

    async def work() -> None:
        async with client_of(served.models) as client:
            given = await answers(client, "demo:one")
            shutil.rmtree(tmp_path / "one")
            assert await served.listed(client) == ["demo", "demo:one"]
            assert await answers(client, "demo:one") == given
        await served.models.close()

    asyncio.run(work())


def test_a_running_answer_keeps_its_adapter_when_the_folder_changes(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "one", tmp_path / "x")
    served = Folder(tmp_path)

    async def text(client: httpx2.AsyncClient, tokens: int) -> str:
        body = {**completion("demo:x"), "max_tokens": tokens}
        return (await client.post("/v1/completions", json=body)).json()["choices"][0][
            "text"
        ]

    async def work() -> None:
        async with client_of(served.models) as client:
            right = await text(client, 150)
            running = asyncio.create_task(text(client, 150))
            while not served.models.active_leases:
                await asyncio.sleep(0.001)
            shutil.rmtree(tmp_path / "x")
            shutil.copytree(folder / "two", tmp_path / "x")
            await served.listed(client)
            assert await running == right
            assert await text(client, 150) != right
        await served.models.close()

    asyncio.run(work())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be listed"):
        AdapterFolder(tmp_path / "none")
