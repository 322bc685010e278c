"""API keys: who may ask, known by the hash of a secret that is shown once.

    pj-3f9c01ab-Jt0...43 characters...c     what a client sends, as `Authorization: Bearer ...`
       |        +-- the secret: 256 random bits
       +-- its id, which names the key in lists, logs and `revoke`

The file holds SHA-256 of the whole key. A slow hash, as passwords need, would add nothing: nobody can try 2^256
secrets, and every request would pay for it. Hashes are compared in constant time, and an unknown id is compared with
something too, so that how long an answer takes tells nothing about the keys there are.

The file is written whole or not at all, readable by its owner only. A running server reads it again when it changes: a
key that is revoked is refused from the next second on.
"""

import hmac
import ipaddress
import os
import re
import secrets
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from penjing.errors import ConfigError, PenjingError, nearest
from penjing.files import read_json, write_json

_FORM = re.compile(r"pj-([0-9a-f]{8})-[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[\w.@+-]{1,64}")
_NOBODY = sha256(b"").hexdigest()


class ApiKeyError(PenjingError):
    """A key that cannot be made, found or read."""


@dataclass(frozen=True)
class Key:
    """What is kept of a key."""

    id: str
    """Eight hexadecimal digits, part of the key itself."""
    name: str
    """What the key is for, in its maker's words."""
    user: str
    """Whose requests these are: conversations and limits are this user's. Several keys may have one user."""
    hash: str
    """SHA-256 of the key, in hexadecimal."""
    created: int
    """Seconds since 1970."""
    rate: float | None = None
    """Requests a minute; None: what the server grants everybody."""
    concurrent: int | None = None
    """Requests at once; None: what the server grants everybody."""
    revoked: int | None = None
    """When it was revoked, in seconds since 1970."""


class KeyFile:
    """The keys in a file.

    Args:
        path: a JSON file; it need not exist yet.
    """

    def __init__(self, path: Path):
        self.path = path
        self._keys: dict[str, Key] = {}
        self._stamp: tuple[int, int, int] | None = None
        self._looked = -float("inf")

    def create(
        self, name: str, user: str | None = None, *, rate: float | None = None, concurrent: int | None = None
    ) -> tuple[Key, str]:
        """Makes a key: what is kept of it, and the key itself, which nobody can show again.

        Raises:
            ApiKeyError: a name or user that is not 1 to 64 letters, digits or `._@+-`, or a limit that is not positive.
        """
        user = user or name
        for what, word in (("name", name), ("user", user)):
            if not _NAME.fullmatch(word):
                raise ApiKeyError(f"the {what} {word[:80]!r} must be 1 to 64 letters, digits or any of . _ @ + -")
        if (rate is not None and not rate > 0) or (concurrent is not None and concurrent < 1):
            raise ApiKeyError("a key's rate and number of requests at once must be above 0")
        keys = self.known()
        taken = {key.id for key in keys}
        id = next(id for id in iter(lambda: secrets.token_hex(4), "") if id not in taken)
        text = f"pj-{id}-{secrets.token_urlsafe(32)}"
        key = Key(id, name, user, _hash(text), int(time.time()), rate, concurrent)
        self._write([*keys, key])
        return key, text

    def revoke(self, which: str) -> Key:
        """Revokes the key of an id, or of a name that only one key in force has.

        Raises:
            ApiKeyError: there is none, or there are several.
        """
        keys = self.known()
        found = [key for key in keys if which in (key.id, key.name) and key.revoked is None]
        if len(found) != 1:
            known = [key.id for key in keys if key.revoked is None]
            many = f"there are {len(found)} keys named '{which}': revoke by id"
            raise ApiKeyError(many if found else f"no key in force has the id or name '{which}'{nearest(which, known)}")
        revoked = replace(found[0], revoked=int(time.time()))
        self._write([revoked if key.id == revoked.id else key for key in keys])
        return revoked

    def known(self) -> list[Key]:
        """All keys, revoked ones too, in the order they were made.

        Raises:
            ApiKeyError: the file is not one of keys.
        """
        self._read()
        return list(self._keys.values())

    def check(self, text: str) -> Key | None:
        """The key that a client sent, if it is one in force.

        The file is looked at once a second at most; if it cannot be read just then, the keys known before hold.
        """
        if time.monotonic() - self._looked > 1:
            with suppress(ApiKeyError):
                self._read()
        form = _FORM.fullmatch(text)
        key = self._keys.get(form[1]) if form else None
        same = hmac.compare_digest(_hash(text), key.hash if key else _NOBODY)
        return key if key is not None and same and key.revoked is None else None

    def _read(self) -> None:
        self._looked = time.monotonic()
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._keys, self._stamp = {}, None
            return
        except OSError as fault:
            raise ApiKeyError(f"{self.path} cannot be read: {fault.strerror}") from None
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            keys = [_key(entry, self.path) for entry in _entries(read_json(self.path, ApiKeyError), self.path)]
            self._keys, self._stamp = {key.id: key for key in keys}, stamp

    def _write(self, keys: list[Key]) -> None:
        before = os.umask(0o077)
        try:
            write_json(self.path, {"keys": [asdict(key) for key in keys]})
        finally:
            os.umask(before)
        self._read()


def default_keys() -> Path:
    """Where keys lie when nothing else is said: `penjing/keys.json` in the user's configuration folder."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "penjing" / "keys.json"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "example.org")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_address(host: str, keys: KeyFile | None) -> None:
    """Refuses to serve without keys where others can reach it.

    Raises:
        ConfigError: `host` is not this machine's own address, and no key is in force.
    """
    if is_loopback(host):
        return
    if keys is None or not any(key.revoked is None for key in keys.known()):
        raise ConfigError(
            f"{host} can be reached by others, and there is no API key: make one with `penjing keys create NAME` and "
            "serve with --keys, or serve 127.0.0.1 only"
        )


def _hash(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _entries(value: Any, path: Path) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("keys"), list):
        raise ApiKeyError(f'{path} is not a file of keys: it must be {{"keys": [...]}}')
    return value["keys"]


def _key(entry: Any, path: Path) -> Key:
    kinds = {"id": str, "name": str, "user": str, "hash": str, "created": int}
    names = {field.name for field in fields(Key)}
    if (
        not isinstance(entry, dict)
        or not set(kinds) <= set(entry) <= names
        or not all(isinstance(entry[name], kind) for name, kind in kinds.items())
    ):
        raise ApiKeyError(f"{path} holds a key that is none: {str(entry)[:60]}")
    return Key(**entry)
