"""What `serve` makes of its options: names of models, keys, hosts, times."""

import logging
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from mlx_gptoss.api.settings import ServerSettings
from mlx_gptoss.checkpoint.hub import Hub
from mlx_gptoss.cli.serve import serve
from mlx_gptoss.cli.serve_setup import (
    DurationType,
    ReasoningLimit,
    api_key,
    checked_origins,
    hosts_of,
    is_loopback,
    sources_of,
    start_log,
)
from mlx_gptoss.cli.services import Services
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import GptOssError, MemoryBudgetError
from mlx_gptoss.server.guard import Guard
from tests.support.checkpoints import write_checkpoint
from tests.support.hub_server import hub_server


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLX_GPTOSS_API_KEY", raising=False)


def names(*models: str) -> list[str]:
    return [one.name for one in sources_of(models, LoadOptions(), Services())]


def test_a_model_has_the_name_of_its_folder_or_its_id(tmp_path: Path) -> None:
    folder = tmp_path / "gpt-oss-20b-q8"
    folder.mkdir()

    assert names("demo", "openai/gpt-oss-20b", str(folder), f"fast={folder}") == [
        "demo",
        "openai/gpt-oss-20b",
        "gpt-oss-20b-q8",
        "fast",
    ]


def test_a_folder_with_an_equals_sign_is_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a=b").mkdir()
    monkeypatch.chdir(tmp_path)

    assert names("./a=b") == ["a=b"]


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(click.UsageError, match="write -m NAME=MODEL"):
        names("demo", "demo")


def test_a_model_that_does_not_fit_is_named_without_its_path(tmp_path: Path) -> None:
    def load(model: str, **options: Any) -> Any:
        raise MemoryBudgetError(
            f"`{model}` needs 61 GB: `mlx-gptoss convert {model} x`"
        )

    class Found(Services):
        def find(self, model: str, options: LoadOptions) -> Path:
            return Path(model)

    folder = str(tmp_path / "large")
    [source] = sources_of([folder], LoadOptions(), Found(load=load))

    with pytest.raises(MemoryBudgetError) as caught:
        source.load()
    assert str(caught.value) == "`large` needs 61 GB: `mlx-gptoss convert large x`"


def test_a_model_is_planned_with_the_options_it_is_loaded_with(tmp_path: Path) -> None:
    """The server makes room for a model by this plan."""
    folder = str(write_checkpoint(tmp_path, odd_key=1))
    trace = tmp_path / "not-a-trace"
    trace.write_text("")
    for options, reason in (
        (LoadOptions(strict=True), "odd_key"),
        (LoadOptions(trace=trace), "not-a-trace"),
    ):
        [source] = sources_of([folder], options, Services())
        assert source.plan is not None
        with pytest.raises(GptOssError, match=reason):
            source.plan()


def test_a_key_comes_from_a_file_a_variable_or_nowhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "key"
    file.write_text("of a file\n")
    file.chmod(0o600)
    monkeypatch.setenv("OTHER", "of a variable")

    assert api_key(str(file), needed=True, made=False) == "of a file"
    assert api_key("env:OTHER", needed=True, made=False) == "of a variable"
    assert api_key(None, needed=False, made=False) is None
    made = {api_key(None, needed=True, made=True) for _ in range(2)}
    assert len(made) == 2
    assert capsys.readouterr().err == ""
    file.chmod(0o644)
    api_key(str(file), needed=True, made=False)
    assert "others can read" in capsys.readouterr().err
    monkeypatch.setenv("MLX_GPTOSS_API_KEY", "of the environment")
    assert api_key(None, needed=False, made=True) == "of the environment"


@pytest.mark.parametrize("key", ["", " ", "sch\u00fcssel", "a\nb"])
def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path, key: str) -> None:
    (tmp_path / "key").write_text(key, encoding="utf-8")

    with pytest.raises(click.UsageError, match="printable ASCII"):
        api_key(str(tmp_path / "key"), needed=True, made=False)


def test_other_addresses_need_a_key_and_are_known_by_their_name() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1")))
    assert not is_loopback("0.0.0.0")
    assert hosts_of("127.0.0.1", ["Mac.local"])[3:] == ("mac.local",)
    assert hosts_of("192.168.1.5", ())[3:] == ("192.168.1.5",)
    assert hosts_of("fe80::1", ())[3:] == ("[fe80::1]",)
    assert len(hosts_of("0.0.0.0", ())) == 5
    with pytest.raises(click.UsageError, match="set a key"):
        api_key(None, needed=True, made=False)


@pytest.mark.parametrize(
    ("host", "served"),
    [("10.0.0.7:8080", True), ("[fe80::1]:80", True), ("rebound.example", False)],
)
def test_beyond_loopback_an_address_is_a_name_and_a_strange_name_is_none(
    host: str, served: bool
) -> None:
    settings = ServerSettings(hosts=hosts_of("0.0.0.0", ()), any_address=True)
    guard = Guard(lambda *_: None, settings, lambda *_: None)  # type: ignore[arg-type,return-value]

    assert (guard.refusal("GET", "/v1/models", {"host": host}) is None) == served


def test_origins_are_written_as_browsers_do() -> None:
    good = ("https://app.example", "http://localhost:3000", "tauri://localhost")
    assert checked_origins(good) == good
    for bad in ("*", "app.example", "https://app.example/", "https://*.example", ""):
        with pytest.raises(click.UsageError, match="is not an origin"):
            checked_origins([bad])


def test_times_and_budgets_are_read() -> None:
    texts = ("90", "90s", "1.5m", "2h", "1d")
    seconds = [DurationType().convert(text, None, None) for text in texts]
    assert seconds == [90, 90, 90, 7200, 86400]
    budgets = [
        ReasoningLimit().convert(text, None, None) for text in ("auto", "off", "500")
    ]
    assert budgets == ["auto", None, 500]
    for wrong in ("soon", "-1", "0", ""):
        with pytest.raises(click.BadParameter):
            DurationType().convert(wrong, None, None)
    with pytest.raises(click.BadParameter):
        ReasoningLimit().convert("-5", None, None)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        start_log(tmp_path / "log")
        yield tmp_path / "log"
        for handler in root.handlers:
            handler.close()
    finally:
        root.handlers[:] = before
        root.setLevel(level)


def test_a_log_file_is_for_its_owner_only(log: Path) -> None:
    logging.getLogger("x").info("said")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert log.read_text().endswith("INFO said\n")


def test_the_signed_addresses_of_a_download_are_not_logged(
    log: Path, tmp_path: Path
) -> None:
    files = {"config.json": b'{"model_type": "gpt_oss"}', "model.safetensors": b"w"}
    with hub_server({"owner/model": files}) as server:
        Hub(server.url, tmp_path / "cache").pull("owner/model")
        assert server.ranges
    assert "signature" not in log.read_text()


def test_a_duration_is_zero_only_where_that_makes_sense() -> None:
    assert DurationType(zero=True).convert("0", None, None) == 0
    with pytest.raises(click.BadParameter):
        DurationType(zero=True).convert("soon", None, None)
    options = {one.name: one for one in serve.params}
    assert options["drain"].type.convert("0s", None, None) == 0
