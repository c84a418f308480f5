"""What a command loads before it answers: the plan of a store full of hits waits for no table or tensor library."""

import subprocess
import sys

HEAVY = {"faiss", "jinja2", "matplotlib", "numpy", "polars", "prefect", "torch", "transformers", "vllm"}
LOADED = """
import sys
import darec.text.identity, darec.report.naming, pipelines.cli, pipelines.reports, stages.plan, stages.publish
print(*sys.modules)
"""
RUN = """
import sys
from pipelines.api import quick_imports
with quick_imports():
    from pipelines import flows
import gc
print("pandas" in sys.modules, gc.isenabled())
"""


def python(code: str) -> list[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


def test_a_plan_loads_nothing_heavy():
    assert HEAVY & set(python(LOADED)) == set()


def test_prefect_comes_without_pandas_and_leaves_things_as_they_were():
    assert python(RUN) == ["False", "True"]
