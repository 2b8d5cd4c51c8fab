"""Make a folder that runs anywhere: Python, mlx_gptoss and a launcher, relocatable.

    PREFIX/bin/python3 examples/bundle/build.py build/mlx-gptoss
    build/mlx-gptoss/bin/mlx-gptoss chat          # works after the folder was moved

The Python that runs this is the one that is copied: take a standalone build (README.md
here says where from). The package index is needed.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
NOT_NEEDED = (  # of the standard library and of the prefix
    "__pycache__",
    "test",
    "tests",
    "idlelib",
    "lib2to3",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "site-packages",
    "config-*",
    "*.a",
)
LAUNCHER = """\
#!/bin/sh
# -I: neither the user's packages nor PYTHON* variables; -B: write nothing in here,
# a signed bundle must stay as it is.
here=$(dirname "$(dirname "$(realpath "$0")")")
exec "$here/python/bin/python3" -I -B -m mlx_gptoss "$@"
"""


def build(folder: Path, prefix: Path) -> None:
    """Fill `folder`, which must not exist yet."""
    python = folder / "python"
    (python / "bin").mkdir(parents=True)
    interpreter = (prefix / "bin" / VERSION).resolve(strict=True)
    shutil.copy2(interpreter, python / "bin" / "python3")
    ignored = shutil.ignore_patterns(*NOT_NEEDED)
    library = python / "lib" / VERSION
    shutil.copytree(prefix / "lib" / VERSION, library, ignore=ignored, symlinks=True)
    for shared in (prefix / "lib").glob("libpython*.*"):
        if shared.suffix != ".a":
            shutil.copy2(shared, python / "lib" / shared.name, follow_symlinks=False)
    check(folder)
    packages = library / "site-packages"
    packages.mkdir()
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*install, "--target", packages, ROOT], check=True)
    shutil.rmtree(packages / "bin", ignore_errors=True)  # these name this machine
    for told in packages.glob("*.dist-info/direct_url.json"):
        told.unlink()  # and so does this
    inside = [python / "bin" / "python3", "-I", "-m", "compileall", "-q", "-j0"]
    # Never checked against the time of its source: that changes when files are copied.
    subprocess.run([*inside, "--invalidation-mode", "unchecked-hash", library])
    launcher = folder / "bin" / "mlx-gptoss"
    launcher.parent.mkdir()
    launcher.write_text(LAUNCHER)
    launcher.chmod(0o755)


def check(folder: Path) -> None:
    """Refuse a folder whose Python would load parts of itself from elsewhere."""
    python = folder / "python" / "bin" / "python3"
    if _strangers(python) and shutil.which("patchelf"):
        own = "$ORIGIN/../lib"
        subprocess.run(["patchelf", "--set-rpath", own, python], check=True)
    if strangers := _strangers(python):
        shutil.rmtree(folder)
        sys.exit(
            f"{sys.executable} loads {strangers[0]}, so a copy of it cannot be moved: "
            "run this with a standalone build of Python, or install `patchelf` (Linux)"
        )


def _strangers(python: Path) -> list[str]:
    """The parts of Python that its program loads from outside its folder."""
    lister = ["otool", "-L"] if sys.platform == "darwin" else ["ldd"]
    listed = subprocess.run(
        [*lister, python], check=True, capture_output=True, text=True
    ).stdout
    words = [word for word in listed.split() if "ython" in word]  # Python.framework
    inside = (str(python.parent.parent), "@executable_path", "@rpath")
    return [word for word in words if "/" in word and not word.startswith(inside)]


def size(folder: Path) -> int:
    """Return the bytes of the files in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sum(path.lstat().st_size for path in files)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make a folder that runs anywhere")
    parser.add_argument("folder", type=Path, help="folder to make")
    arguments = parser.parse_args()
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} exists: name a new folder")
    build(arguments.folder.absolute(), Path(sys.base_prefix))
    print(f"{arguments.folder}: {size(arguments.folder) / 1e6:.0f} MB")
