"""Safetensors headers: literal bytes in, tensors or one clear error out."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_gptoss.checkpoint import StoredTensor, read_header
from mlx_gptoss.checkpoint.safetensors_header import MAX_HEADER_BYTES
from mlx_gptoss.errors import CheckpointError

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
    "b": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]},
}
DATA = bytes(11)


def contents(header: Any, data: bytes = DATA) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def written(folder: Path, raw: bytes) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(raw)
    return path


def message(folder: Path, raw: bytes) -> str:
    path = written(folder, raw)
    with pytest.raises(CheckpointError) as error:
        read_header(path)
    return str(error.value).replace(str(path), "FILE")


def test_offsets_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    text = b'{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]}}'
    path = written(tmp_path, b"\x3a\0\0\0\0\0\0\0" + text + bytes(12))
    expected = StoredTensor("a", path, "BF16", (2, 3), offset=8 + 58, nbytes=12)
    assert read_header(path) == {"a": expected}


def test_metadata_and_its_absence_are_both_allowed(tmp_path: Path) -> None:
    for metadata in ({"format": "pt"}, None):  # MLX writes null
        raw = contents({"__metadata__": metadata, **GOOD})
        assert set(read_header(written(tmp_path, raw))) == {"a", "b"}


def test_scalars_and_empty_tensors_are_read(tmp_path: Path) -> None:
    header = {
        "scalar": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]},
        "empty": {"dtype": "F32", "shape": [0, 7], "data_offsets": [4, 4]},
    }
    tensors = read_header(written(tmp_path, contents(header, bytes(4))))
    assert [tensor.nbytes for tensor in tensors.values()] == [4, 0]


def changed(name: str, **entry: Any) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **entry}}


DAMAGE: dict[str, tuple[bytes, str]] = {
    "empty file": (
        b"",
        "`FILE` has 0 bytes, too few for a safetensors file: the file is cut short, "
        "download it again",
    ),
    "three bytes": (b"abc", "`FILE` has 3 bytes, too few"),
    "length beyond reason": (
        b"\xff" * 8 + b"{}",
        f"`FILE` declares a header of 18446744073709551615 bytes, at most "
        f"{MAX_HEADER_BYTES} are allowed: it is no safetensors file",
    ),
    "length beyond the file": (
        (1000).to_bytes(8, "little") + b"{}",
        "`FILE` declares a header of 1000 bytes but has only 10 bytes in total: the "
        "file is cut short, download it again",
    ),
    "git lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 5\n",
        "`FILE` is a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "a web page": (
        b"<!DOCTYPE html><html><title>401 Unauthorized</title></html>",
        "`FILE` is a web page, which a server sent instead of the file",
    ),
    "a GGUF": (
        b"GGUF" + bytes(60),
        "`FILE` is a GGUF: convert it with `mlx-gptoss convert FILE DST`",
    ),
    "pickled": (
        b"PK\x03\x04" + bytes(60),
        "`FILE` is pickled or an archive, which is not read, for safety: save",
    ),
    "zeros": (
        bytes(100),
        "`FILE` begins with zeros, as a download that was stopped does: the file is "
        "cut short, download it again",
    ),
    "not JSON": (contents(b"{nonsense"), "`FILE` has a corrupt header (Expecting"),
    "not UTF-8": (contents(b'{"\xff": 1}'), "`FILE` has a corrupt header ('utf-8'"),
    "not an object": (contents([1]), "corrupt header (not a JSON object)"),
    "too deep": (contents(b"[" * 200_000), "`FILE` has a corrupt header (maximum"),
    "a number too long": (contents(b"1" * 9_000), "`FILE` has a corrupt header ("),
    "a name twice": (
        contents(b'{"a":{},"a":{}}'),
        "`FILE` has a corrupt header (a name occurs twice)",
    ),
    "a name with an escape": (
        contents({"\x1b[2J": {}}),
        "`FILE` has a corrupt header (a name is not printable)",
    ),
    "an entry that is no object": (
        contents({"a": 5}),
        "tensor `a` in `FILE` is described by 5: no byte is missing",
    ),
    "unknown dtype": (
        contents(changed("a", dtype="F4")),
        "tensor `a` in `FILE` has dtype 'F4', which is not supported: save",
    ),
    "dtype is a list": (contents(changed("a", dtype=["F32"])), "has dtype ['F32']"),
    "negative size": (contents(changed("a", shape=[-2, -1])), "has shape [-2, -1]"),
    "size is a float": (contents(changed("a", shape=[2.0, 1])), "shape [2.0, 1]"),
    "size is a bool": (contents(changed("a", shape=[2, True])), "shape [2, True]"),
    "size is huge": (contents(changed("a", shape=[1 << 80])), "has shape [1208925"),
    "rank is huge": (contents(changed("a", shape=[1] * 99)), "has shape [1, 1, 1"),
    "no shape": (contents(changed("a", shape=None)), "has shape None"),
    "one offset": (contents(changed("a", data_offsets=[0])), "data_offsets [0]"),
    "offsets backwards": (
        contents(changed("a", data_offsets=[8, 0])),
        "tensor `a` in `FILE` has -8 bytes, expected 8 for F32 of shape (2, 1): no "
        "byte is missing, so a tool wrote it wrongly: save the model again",
    ),
    "bytes do not match": (
        contents(changed("a", shape=[3, 1])),
        "tensor `a` in `FILE` has 8 bytes, expected 12 for F32 of shape (3, 1)",
    ),
    "overlap": (
        contents(changed("b", data_offsets=[7, 10])),
        "tensor `b` in `FILE` begins at byte",
    ),
    "hole": (
        contents(changed("b", data_offsets=[9, 12]), bytes(12)),
        "(it leaves a gap): no byte is missing",
    ),
    "cut short": (
        contents(GOOD, bytes(10)),
        "expects 144: the file is cut short, download it again",
    ),
    "too long": (contents(GOOD, bytes(13)), "2 more than its header describes"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(damage: str, tmp_path: Path) -> None:
    raw, says = DAMAGE[damage]
    assert says in message(tmp_path, raw)


def test_cut_short_says_both_sizes(tmp_path: Path) -> None:
    raw = contents(GOOD)
    assert message(tmp_path, raw[:-1]) == (
        f"`FILE` has {len(raw) - 1} bytes, its header expects {len(raw)}: the file is "
        "cut short, download it again"
    )


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.safetensors` is missing"):
        read_header(tmp_path / "absent.safetensors")


def accepts_or_complains(path: Path, raw: bytes) -> None:
    """Anything but a CheckpointError fails; what is accepted lies within the file."""
    path.write_bytes(raw)
    try:
        tensors = read_header(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
        return
    assert all(t.offset + t.nbytes <= len(raw) for t in tensors.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "U8", "F4", ""]) | JSON,
        "shape": st.lists(st.integers(-2, 1 << 70), max_size=5) | JSON,
        "data_offsets": st.lists(st.integers(-2, 40), max_size=3) | JSON,
    },
)
HEADER = st.dictionaries(st.text(max_size=5), ENTRY | JSON, max_size=4)
FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@FUZZ
@given(raw=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes, tmp_path: Path) -> None:
    accepts_or_complains(tmp_path / "f", raw)


@FUZZ
@given(header=HEADER | JSON, data=st.binary(max_size=40))
def test_any_header_is_read_or_refused(
    header: Any, data: bytes, tmp_path: Path
) -> None:
    accepts_or_complains(tmp_path / "f", contents(header, data))


@FUZZ
@given(place=st.integers(0, 143), byte=st.integers(0, 255))
def test_any_changed_byte_is_read_or_refused(
    place: int, byte: int, tmp_path: Path
) -> None:
    raw = bytearray(contents(GOOD))
    raw[place % len(raw)] = byte
    accepts_or_complains(tmp_path / "f", bytes(raw))


@FUZZ
@given(length=st.integers(0, 143))
def test_any_cut_file_is_refused(length: int, tmp_path: Path) -> None:
    accepts_or_complains(tmp_path / "f", contents(GOOD)[:length])
