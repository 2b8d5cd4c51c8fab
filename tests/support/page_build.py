"""Build the chat page from its source, away from it, with exactly the locked packages.

`python -m tests.support.page_build` writes mlx_gptoss/server/web/assets anew. Needs
node and npm. The packages are installed in a temporary folder, or kept in the one that
MLX_GPTOSS_PAGE_BUILD names.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WEB = Path(__file__).parents[2] / "mlx_gptoss" / "server" / "web"
SOURCE, ASSETS = WEB / "page", WEB / "assets"
VARIABLE = "MLX_GPTOSS_PAGE_BUILD"
PACKAGES = "node_modules"
INSTALL = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]


class PageBuildError(Exception):
    """A step of the build failed; the message is its output."""


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise PageBuildError(f"{' '.join(command)}: {done.stdout}{done.stderr}")


@contextmanager
def place_to_build() -> Iterator[Path]:
    if kept := os.environ.get(VARIABLE):
        Path(kept).mkdir(parents=True, exist_ok=True)
        yield Path(kept)
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def copy_source(page: Path) -> None:
    """Lay the source out in a folder; packages that are there stay."""
    for path in page.iterdir() if page.exists() else ():
        if path.name != PACKAGES:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(
        SOURCE, page, dirs_exist_ok=True, ignore=shutil.ignore_patterns(PACKAGES)
    )


@contextmanager
def built_page() -> Iterator[Path]:
    """Install and build; yield the folder of the built files."""
    with place_to_build() as folder:
        page = folder / "page"
        copy_source(page)
        if not (page / PACKAGES).exists():
            run(INSTALL, page)
        run(["npm", "run", "--silent", "check"], page)
        run(["npm", "run", "--silent", "build"], page)
        yield folder / "assets"


def main() -> None:
    with built_page() as built:
        shutil.rmtree(ASSETS, ignore_errors=True)
        shutil.copytree(built, ASSETS)
    sys.stdout.write(f"Wrote {ASSETS}\n")


if __name__ == "__main__":
    main()
