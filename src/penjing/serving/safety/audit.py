"""The audit log: every decision that was more than "allow", one JSON object a line.

    {"time": 1764500000.0, "user": "k1", "where": "input", "action": "block", "reasons": [{"rule": "moderation",
     "action": "block", "kind": "violence", "why": "probability 0.93, limit 0.71", "count": 1}], "digest": "9f86d08..."}

It holds no text unless the policy says so: a digest tells whether two decisions were about the same text. A line is
written with one call, so that lines of several threads and processes never mix; what does not get to the disk is said
once on the log and does not stop anyone's answer.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penjing.errors import ConfigError

_log = logging.getLogger("penjing.serving.safety")


class AuditLog:
    """Appends decisions to a file.

    Args:
        path: the file; made when missing, with its folder, readable by its owner only.
        text: whether texts are written too.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path, *, text: bool = False):
        self.path, self._text, self._lock, self._failing = path, text, threading.Lock(), False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as fault:
            raise ConfigError(f"the audit log {path} cannot be written: {fault.strerror}") from None

    def write(self, *, user: str, where: str, action: str, reasons: Sequence[Mapping[str, Any]], text: str) -> None:
        """Adds a decision."""
        entry: dict[str, Any] = {"time": time.time(), "user": user, "where": where, "action": action}
        entry |= {"reasons": list(reasons), "digest": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]}
        if self._text:
            entry["text"] = text
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._lock:
            try:
                os.write(self._file, line)
                self._failing = False
            except OSError as fault:
                if not self._failing:
                    _log.error("the audit log %s cannot be written: %s", self.path, fault.strerror)
                self._failing = True

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1
