"""Everyday text from files, to see how much of it a filter would stop."""

import json
from pathlib import Path
from typing import Any

from penjing.errors import DataError

_FIELDS = ("text", "prompt", "question", "instruction", "content")


def read_texts(path: Path, limit: int) -> list[str]:
    """The first texts of a file: lines of a .txt; strings, or objects that hold a text, of a .json or .jsonl.

    Raises:
        DataError: the file is missing, damaged or has no text.
    """
    try:
        content = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            texts = [_text(json.loads(line)) for line in content.splitlines()[: 2 * limit] if line.strip()]
        elif path.suffix == ".json":
            texts = [_text(value) for value in json.loads(content)]
        else:
            texts = content.splitlines()
    except OSError as fault:
        raise DataError(f"{path} cannot be read: {fault.strerror}") from None
    except (ValueError, TypeError) as fault:
        raise DataError(f"{path} is not what its name says: {fault}") from None
    found = [text for text in texts if text.strip()][:limit]
    if not found:
        raise DataError(f"{path} has no text; objects need one of {', '.join(_FIELDS)}")
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        name = next((name for name in _FIELDS if isinstance(value.get(name), str)), None)
        parts = [value[name]] if name else []
        parts += [value[more] for more in ("input", "output") if isinstance(value.get(more), str) and value[more]]
        return "\n".join(parts)
    return ""
