"""The quickstart notebook: its cells run in order, on a small store with a release."""

import contextlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path

NOTEBOOK = Path("docs/quickstart.ipynb").resolve()
ARCHIVE = Path("tests/legacy/store-0.1.tar.gz").resolve()
MODELS = Path("data/models").resolve()


def test_the_cells_of_the_notebook_run(tmp_path, monkeypatch):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAREC_MODELS", os.environ.get("DAREC_MODELS", str(MODELS)))
    Path("configs").mkdir()
    shutil.copy("recipe.yaml", "configs/movielens-100k.yaml")

    names: dict[str, object] = {}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        for cell in json.loads(NOTEBOOK.read_text())["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)

    said = output.getvalue()
    assert said.count("item_id") == 2 and "popularity" in said
    assert names["report"].metrics["test"].keys() >= {"recall@20", "ndcg@20"}


def test_the_notebook_holds_no_outputs():
    code = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)
