"""Models that LM Studio keeps on this machine: names to files, read only.

    lmstudio:publisher/name            a folder of its models
    lmstudio:publisher/name/FILE.gguf  one of several there

Its home is found as in `findLMStudioHome` of lmstudio.js. Writes nothing.
"""

from collections.abc import Iterator
from pathlib import Path

from mlx_gptoss.checkpoint.hub.gguf_files import first_shards, list_models
from mlx_gptoss.checkpoint.hub.ollama_models import describe_here
from mlx_gptoss.checkpoint.json_files import read_json_or_empty
from mlx_gptoss.errors import HubError
from mlx_gptoss.format.file_names import CONFIG, GGUF

LM_STUDIO = "lmstudio:"
LM_STUDIO_POINTER = ".lmstudio-home-pointer"
LM_STUDIO_HOMES = (".lmstudio", ".cache/lm-studio")  # the second one until 2025
FOLDER_PARTS = 2  # publisher and name


def lm_studio_folders() -> Iterator[Path]:
    """Yield the folders LM Studio may keep its models in."""
    home = Path.home()
    pointer = home / LM_STUDIO_POINTER
    pointed = [Path(pointer.read_text().strip())] if pointer.is_file() else []
    for place in dict.fromkeys([*pointed, *(home / name for name in LM_STUDIO_HOMES)]):
        chosen = read_json_or_empty(place / "settings.json").get("downloadsFolder")
        if isinstance(chosen, str) and chosen:
            yield Path(chosen)
        yield place / "models"


def find_lm_studio_model(name: str) -> Path:
    """Return a GGUF file, or a folder that has a model for MLX."""
    parts = name.split("/")
    if len(parts) < FOLDER_PARTS or not all(map(is_folder_name, parts)):
        raise HubError(
            f"`{LM_STUDIO}{name}` is not a name of LM Studio's: write its folder as "
            f"`{LM_STUDIO}publisher/name`"
        )
    places = list(lm_studio_folders())
    file = "/".join(parts[FOLDER_PARTS:])
    for place in places:
        folder = place.joinpath(*parts[:FOLDER_PARTS])
        if (folder / file).is_file():
            return folder / file
        if folder.is_dir() and not file:
            return choose_lm_studio_file(folder, name)
    here = [
        "/".join(folder.relative_to(place).parts)
        for place in places
        for folder in place.glob("*/*")
        if folder.is_dir()
    ]
    raise HubError(
        f"`{LM_STUDIO}{name}` is not among LM Studio's models in "
        f"`{places[0]}`{describe_here(here)}: choose one that is, or download it there"
    )


def is_folder_name(part: str) -> bool:
    return part not in ("", ".", "..") and "\0" not in part


def choose_lm_studio_file(folder: Path, name: str) -> Path:
    if (folder / CONFIG).is_file():
        return folder
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in folder.rglob(f"*{GGUF}")
    }
    firsts = first_shards(files)
    if not firsts:
        raise HubError(
            f"`{folder}` has neither a GGUF nor `{CONFIG}`: choose another model"
        )
    if len(firsts) > 1:
        raise HubError(
            f"`{LM_STUDIO}{name}` has {len(firsts)} models as GGUF: give one\n"
            + list_models(f"{LM_STUDIO}{name}", firsts, files)
        )
    return folder / firsts[0]
