"""A provider loads the serving side in its own process: nothing heavy comes with it."""

from __future__ import annotations

import subprocess
import sys
from importlib.resources import files

import pytest

HEAVY = {"faust", "river", "numba", "scipy", "aiokafka", "pandas", "sklearn", "streams", "rich"}
MODULES = sorted(
    entry.name.removesuffix(".py")
    for entry in files("sinks.serving").iterdir()
    if entry.name.endswith(".py") and entry.name != "__init__.py"
)


@pytest.mark.parametrize("module", MODULES)
def test_no_module_of_the_serving_side_loads_anything_heavy(module: str) -> None:
    program = f"import sys, sinks.serving.{module}; print(sorted({HEAVY} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
