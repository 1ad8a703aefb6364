from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import detectors
from detectors import kernelcache, keylevel
from detectors.kernelcache import source_hash

INNER = "from detectors.kernelcache import njit\n@njit(cache=True)\ndef inner(x):\n    return x + {}\n"
OUTER = (
    "from detectors.kernelcache import njit\nfrom detectors.inner import inner\n"
    "@njit(cache=True)\ndef outer(x):\n    return inner(x)\n"
)
ASK = "from detectors.outer import outer; print(outer(1), sum(outer.stats.cache_hits.values()))"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with our cache and two kernels, of which one calls the other."""
    package = tmp_path / "detectors"
    package.mkdir()
    for name in ("__init__.py", "kernelcache.py"):
        shutil.copy(Path(detectors.__file__).parent / name, package / name)
    (package / "inner.py").write_text(INNER.format(1))
    (package / "outer.py").write_text(OUTER)
    return package


def ask(package: Path, **environment: str) -> tuple[int, int]:
    """Return the outer kernel's result in a new process, and whether it came from the cache."""
    kept = {k: v for k, v in os.environ.items() if k not in {"NUMBA_CACHE_DIR", "PYTHONPATH"}}
    env = {**kept, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, env=env, cwd=package, capture_output=True, text=True, check=True)
    result, hits = done.stdout.split()
    return int(result), int(hits)


def test_a_kernel_follows_a_change_in_another_file(package: Path, tmp_path: Path) -> None:
    assert ask(package) == (2, 0)
    assert ask(package) == (2, 1)
    (package / "inner.py").write_text(INNER.format(5))
    assert ask(package) == (6, 0)
    (package / "inner.py").write_text(INNER.format(1))
    assert ask(package) == (2, 1), "what was compiled before the change is of use again"
    chosen = tmp_path / "chosen"
    assert ask(package, NUMBA_CACHE_DIR=str(chosen)) == (2, 0)
    assert ask(package, NUMBA_CACHE_DIR=str(chosen)) == (2, 1)
    assert len(list(chosen.glob("kernels-*"))) == 1


def test_only_sources_with_kernels_count(package: Path) -> None:
    before = source_hash(package.parent)
    (package / "words.py").write_text("WORDS = 1\n")
    assert source_hash(package.parent) == before
    (package / "words.py").write_text(INNER.format(2))
    assert source_hash(package.parent) != before


def test_this_process_uses_it() -> None:
    assert kernelcache.CACHE is not None
    assert kernelcache.CACHE in Path(keylevel.standardise.stats.cache_path).parents
