"""What a command loads before it answers, and which package imports which."""

import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import darec

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


ROOMS, ARROWS = 16, 70


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """Package -> the packages that it imports, also for types or inside functions."""
    graph = grimp.build_graph("schemas", "darec", "stages", "benchmarks", "pipelines", cache_dir=None)
    packages = {module.rpartition(".")[0] for module in graph.modules} - {""} | {"schemas", "stages"}
    room = {module: module if module in packages else module.rpartition(".")[0] for module in graph.modules}

    found: dict[str, set[str]] = {package: set() for package in packages}
    for module in graph.modules:
        found[room[module]] |= {room[other] for other in graph.find_modules_directly_imported_by(module)}
    return {package: others - {package} for package, others in found.items()}


def test_the_library_has_no_loose_modules():
    assert [path.name for path in Path(darec.__file__).parent.glob("*.py")] == ["__init__.py"]


def test_packages_and_the_imports_between_them_stay_few(arrows):
    assert len(arrows) <= ROOMS, sorted(arrows)
    assert sum(map(len, arrows.values())) <= ARROWS, arrows


def test_no_packages_import_each_other_in_a_circle(arrows):
    assert len(list(TopologicalSorter(arrows).static_order())) == len(arrows)  # CycleError names the circle
