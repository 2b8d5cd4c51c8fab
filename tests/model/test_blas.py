"""The BLAS is loaded before MLX, never required, and always reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_gptoss.model.blas import BlasStatus, preload_blas
from mlx_gptoss.model.blas_library import preload

linux = pytest.mark.skipif(sys.platform != "linux", reason="the BLAS is lent on Linux")

REPORT = """
import dataclasses, json, sys
from mlx_gptoss.model.blas import preload_blas
blas = preload_blas()
maps = open("/proc/self/maps").read()
print(json.dumps(dict(
    dataclasses.asdict(blas),
    mapped="libopenblas" in maps,
    mlx="mlx.core" in sys.modules,
)))
"""


def in_fresh_process(code: str, **environ: str) -> dict:
    clean = {k: v for k, v in os.environ.items() if k != "MLX_GPTOSS_BLAS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@linux
def test_importing_the_package_loads_the_blas_if_installed_and_not_mlx() -> None:
    found = in_fresh_process("import mlx_gptoss" + REPORT)
    assert found["state"] in {"loaded", "missing", "present"}
    assert found["mapped"] == (found["state"] != "missing")
    assert not found["mlx"]


@linux
def test_switched_off_nothing_is_loaded() -> None:
    found = in_fresh_process("import mlx_gptoss" + REPORT, MLX_GPTOSS_BLAS="off")
    assert (found["state"], found["mapped"], found["threads"]) == ("off", False, None)


@linux
def test_after_mlx_it_is_too_late_and_says_so() -> None:
    found = in_fresh_process("import mlx.core, mlx_gptoss" + REPORT)
    if found["state"] == "present":
        pytest.skip("this process starts with OpenBLAS preloaded")
    assert found["state"] == "late"
    assert "import `mlx_gptoss` first" in found["explanation"]
    assert not found["mapped"]


@linux
def test_products_with_the_lent_blas_are_those_of_numpy() -> None:
    found = in_fresh_process(
        """
import json
import mlx_gptoss
import mlx.core as mx, numpy as np
a, b = mx.random.normal((37, 65)), mx.random.normal((65, 29))
error = np.abs(np.array(a @ b) - np.array(a).astype(float) @ np.array(b)).max()
print(json.dumps({"error": float(error)}))
"""
    )
    assert found["error"] < 1e-4  # 65 float32 products of size about 1


@linux
def test_a_machine_without_the_library_is_told_the_package(tmp_path: Path) -> None:
    if preload_blas().state == "present":
        pytest.skip("this process starts with OpenBLAS preloaded")
    absent = str(tmp_path / "libopenblas.so.0")
    code = f"""
import json
import os; os.environ["MLX_GPTOSS_BLAS"] = "off"
from mlx_gptoss.model.blas_library import preload
names = "state", "explanation", "threads"
print(json.dumps(dict(zip(names, preload(
    platform="linux", switch="", mlx_imported=False, library={absent!r})))))
"""
    found = in_fresh_process(code)
    assert found["state"] == "missing"
    assert "libopenblas0-pthread" in found["explanation"]


def test_a_mac_is_left_alone() -> None:
    found = preload(
        platform="darwin", switch="", mlx_imported=False, library="libopenblas.so.0"
    )
    blas = BlasStatus(*found)
    assert blas == BlasStatus("unneeded", "MLX brings its own BLAS on this system")
    assert blas.optimized


def test_the_second_call_reports_what_the_first_did() -> None:
    assert preload_blas() is preload_blas()


def test_these_tests_run_with_the_blas_that_users_get() -> None:
    assert preload_blas().state != "late"


SPENT = """
import json, os, time
from mlx_gptoss.model.blas import preload_blas
import mlx.core as mx
a = mx.random.normal((600, 600))
mx.eval(a @ a)
before = time.process_time()
time.sleep(0.3)
print(json.dumps({"spent": time.process_time() - before,
                  "set": os.environ.get("OPENBLAS_THREAD_TIMEOUT"),
                  "state": preload_blas().state}))
"""


@linux
def test_threads_without_work_leave_the_cores_to_others() -> None:
    """By default they would spin, using 25 ms and more of two cores."""
    clean = {"OPENBLAS_NUM_THREADS": "2"}
    found = in_fresh_process(SPENT, **clean)
    if found["state"] != "loaded":
        pytest.skip(f"the BLAS is {found['state']}")
    assert found["spent"] < 0.008
    assert found["set"] is None  # programs that are started from here decide anew


@linux
def test_who_has_set_how_long_threads_spin_keeps_it() -> None:
    found = in_fresh_process(SPENT, OPENBLAS_THREAD_TIMEOUT="29")
    assert found["set"] == "29"
