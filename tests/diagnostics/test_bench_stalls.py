"""The form of the report of `bench stalls`, not its speed."""

import json

import pytest
from click.testing import CliRunner

from mlx_gptoss.api.settings import RequestLimits
from mlx_gptoss.checkpoint.hub import resolve
from mlx_gptoss.checkpoint.tokenizer import Tokenizer
from mlx_gptoss.cli import cli
from mlx_gptoss.diagnostics.bench.heavy_requests import LARGEST, heavy_requests
from mlx_gptoss.diagnostics.bench.stalls import bench_stalls
from mlx_gptoss.engine.load_options import LoadOptions
from mlx_gptoss.errors import GptOssError


def test_it_shows_what_others_feel_beside_each_heavy_request() -> None:
    words = ["bench", "stalls", "-m", "demo", "--seconds", "0", "--json"]

    ran = CliRunner().invoke(cli, [*words, "--heavy", "100,000 messages"])

    rows = json.loads(ran.stdout)["rows"]
    assert [(row["name"], row["status"]) for row in rows] == [
        ("nothing", None),
        ("100,000 messages", 400),
    ]
    for row in rows:
        for name in ("health", "first_token", "token_gap"):
            assert 0 < row[name]["median"] <= row[name]["most"]


def test_heavy_requests_are_within_the_bytes_a_server_takes() -> None:
    tokenizer = Tokenizer.open(resolve("demo"))

    made = [make() for make in heavy_requests(tokenizer, 131072).values()]

    sizes = [len(one.body) for one in made]
    assert LARGEST < max(sizes) < RequestLimits().body_bytes
    assert len({one.name for one in made}) == len(made) == 6


def test_a_heavy_request_that_is_not_known_is_refused() -> None:
    with pytest.raises(GptOssError, match="no heavy request `x`: choose from `31 MB"):
        bench_stalls(resolve("demo"), LoadOptions(), heavy=["x"])
