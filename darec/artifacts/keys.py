"""Artifact keys, and the differences between two of them."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from darec.common.hashing import canonical_json, digest

KEY_LENGTH = 20  # hex digits, 80 bits: collisions are not a practical concern


def artifact_key(material: Mapping[str, Any]) -> str:
    """The key of an artifact made from `material` (stage, version, config, prompts, input contents)."""
    return digest(material)[:KEY_LENGTH]


def content_hash(files: Mapping[str, str], names: Iterable[str]) -> str:
    """One hash for the chosen `names` of an artifact, given each file's SHA-256."""
    return digest({name: files[name] for name in names})


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """The leaves at which two key materials differ, as lines `path: old -> new`, or `path: changed` for hashes."""
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
    """Whether it is a SHA-256 in hex, which is shown only as changed."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _brief(value: Any, width: int = 40) -> str:
    text = canonical_json(value)
    return text if len(text) <= width else text[: width - 1] + "…"
