"""Does every runtime dependency resolve to wheels on a Mac, for every Python?

    .venv/bin/python .ci/mac_wheels.py

By hand, not part of `.ci/run`: it downloads about 100 MB a Python for a machine that
is not there. Installs nothing and leaves nothing behind. Run it in the environment
of the tests (it needs `packaging`), with a recent pip.

pip evaluates markers for the machine it runs on, so `mlx-metal` (`platform_system ==
"Darwin"`) would be passed over: the requirements inside every wheel are read again
with a Mac's markers, and what is missing is asked for, until nothing is.
"""

import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
PLATFORM = "macosx_14_0_arm64"  # the oldest macOS MLX has wheels for
ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    print(f"{'Python':8} {'package':20} {'version':14} {'MB':>6}  tags")
    failures = 0
    for python in PYTHONS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                wheels = resolve(python, Path(folder))
            except subprocess.CalledProcessError as error:
                failures += 1
                print(f"{python:8} NOT RESOLVED\n{error.stderr}")
                continue
            report(python, wheels)
    return 1 if failures else 0


def resolve(python: str, folder: Path) -> list[Path]:
    """Download wheels until what they require on a Mac is all there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    mac = mac_markers(python)
    wanted = [
        requirement
        for requirement in map(Requirement, project["dependencies"])
        if requirement.marker is None or requirement.marker.evaluate(mac)
    ]
    while wanted:
        download(wanted, python, folder)
        wheels = {name_of(wheel): wheel for wheel in folder.glob("*.whl")}
        wanted = [
            requirement
            for wheel in wheels.values()
            for requirement in required_by(wheel, mac)
            if canonicalize_name(requirement.name) not in wheels
        ]
    return sorted(folder.glob("*.whl"))


def download(wanted: list[Requirement], python: str, folder: Path) -> None:
    for requirement in wanted:
        requirement.marker = None  # evaluated already, for a Mac
    command = [sys.executable, "-m", "pip", "download", "--quiet"]
    command += ["--only-binary=:all:", "--platform", PLATFORM]
    command += ["--python-version", python, "--implementation", "cp"]
    command += ["--dest", str(folder), *map(str, wanted)]
    subprocess.run(command, check=True, capture_output=True, text=True)


def required_by(wheel: Path, mac: dict[str, str]) -> Iterator[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(path).decode())
    for line in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(mac):
            yield requirement


def mac_markers(python: str) -> dict[str, str]:
    return {
        "sys_platform": "darwin",
        "platform_system": "Darwin",
        "platform_machine": "arm64",
        "os_name": "posix",
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "extra": "",
    }


def name_of(wheel: Path) -> str:
    return parse_wheel_filename(wheel.name)[0]


def report(python: str, wheels: list[Path]) -> None:
    total = 0.0
    for wheel in wheels:
        name, version, _, _ = parse_wheel_filename(wheel.name)
        tags = "-".join(wheel.stem.split("-")[2:])
        size = wheel.stat().st_size / 1e6
        total += size
        print(f"{python:8} {name:20} {version!s:14} {size:6.1f}  {tags}")
    print(f"{python:8} all {len(wheels)} resolved{total:27.1f}")


if __name__ == "__main__":
    sys.exit(main())
