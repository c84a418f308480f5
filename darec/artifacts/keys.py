"""Artifact keys: the SHA-256 of canonical JSON, and hashes of files."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

KEY_LENGTH = 20  # hex digits: 80 bits, no collision among any number of artifacts a team can make


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text, whatever their field order.

    Raises:
        ValueError: for NaN and infinities, which have no JSON form.
        TypeError: for anything that is not plain JSON data.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """The SHA-256 (hex) of `value`'s canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def artifact_key(material: Mapping[str, Any]) -> str:
    """The key of an artifact made from `material` (stage, version, config, prompts, input contents)."""
    return digest(material)[:KEY_LENGTH]


def file_sha256(path: Path) -> str:
    """The SHA-256 (hex) of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_hash(files: Mapping[str, str], names: Iterable[str]) -> str:
    """One hash for the chosen `names` of an artifact, given each file's SHA-256."""
    return digest({name: files[name] for name in names})


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The leaves at which two key materials differ, as lines `path: old -> new`, or `path: changed` of a hash."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in sorted(set(old) | set(new))
            for line in differences(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
        ]
    if old == new:
        return []
    return [f"{path}: changed" if _is_hash(old) and _is_hash(new) else f"{path}: {_brief(old)} -> {_brief(new)}"]


def _is_hash(value: Any) -> bool:
    """Whether it is a SHA-256 in hex, which tells nobody anything but that it is another."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _brief(value: Any, width: int = 40) -> str:
    text = canonical_json(value)
    return text if len(text) <= width else text[: width - 1] + "…"
