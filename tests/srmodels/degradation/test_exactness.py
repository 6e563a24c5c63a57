import json
import platform
import subprocess
import sys

import pytest

from tests.conftest import ROOT, Runner
from tests.srmodels.degradation.digest import digests

SAMPLES = 40
EVERYTHING_OFF = {
    "OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FMA3,AVX,SSE4.2,SSE4.1",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX512_ICL",
    "OPENBLAS_CORETYPE": "Prescott",
    "OPENCV_IPP": "disabled",
}

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="instruction sets of x86 are switched off"
)


def digest(run_python: Runner, threads: int = 1, **environment: str) -> dict:
    done = run_python(
        "-m", "tests.srmodels.degradation.digest", str(SAMPLES), str(threads), **environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def plain() -> dict:
    command = [sys.executable, "-m", "tests.srmodels.degradation.digest", str(SAMPLES), "1"]
    return json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)


def test_nothing_changes_with_all_instruction_sets_off(run_python: Runner, plain: dict) -> None:
    bare = digest(run_python, **EVERYTHING_OFF)
    assert [bare[part] for part in ("opencv_avx2", "numpy_avx2", "ipp")] == [False] * 3
    assert bare["digests"] == plain["digests"]
    if plain["opencv_avx2"]:
        # The comparison means something: ordinary float32 filtering does change.
        assert bare["control"] != plain["control"]


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENCV_CPU_DISABLE": "AVX512-SKX"},
        {"OPENCV_CPU_DISABLE": "AVX512-SKX,AVX2,FMA3"},
        {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL"},
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"OPENBLAS_CORETYPE": "Nehalem"},
        {"OPENCV_IPP": "sse42"},
    ],
    ids=str,
)
def test_nothing_changes_with_one_library_on_an_older_cpu(
    run_python: Runner, plain: dict, environment: dict[str, str]
) -> None:
    assert digest(run_python, **environment)["digests"] == plain["digests"]


def test_nothing_changes_with_threads(run_python: Runner, plain: dict) -> None:
    assert digest(run_python, threads=2)["digests"] == plain["digests"]


def test_a_process_can_degrade_in_any_order(plain: dict) -> None:
    # Caches of weights and quantiles are warm the second time.
    assert digests(SAMPLES) == digests(SAMPLES) == plain["digests"]
