"""API keys: hashed in their file, checked in constant time, revoked while a server runs."""

import json
import os
import stat
import time

import pytest
from typer.testing import CliRunner

from penjing.cli import app
from penjing.errors import ConfigError
from penjing.serving import keys as module
from penjing.serving.keys import ApiKeyError, KeyFile, check_address


@pytest.fixture
def keys(tmp_path) -> KeyFile:
    return KeyFile(tmp_path / "folder" / "keys.json")


def test_a_key_opens_and_anything_else_does_not(keys):
    key, text = keys.create("laptop", "ada")
    other, _ = keys.create("phone")
    assert keys.check(text) == key
    assert (key.user, other.user) == ("ada", "phone")
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    swapped = text.replace(key.id, other.id)
    for refused in ("", "pj-", wrong, swapped, text + " ", text.upper(), key.hash, "x" * 100_000, "\udcff", "é"):
        assert keys.check(refused) is None


def test_the_secret_is_not_in_the_file_and_only_its_owner_reads_it(keys):
    _, text = keys.create("laptop")
    written = keys.path.read_text()
    assert text not in written
    assert text.split("-", 2)[2] not in written
    if os.name == "posix":
        assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


def test_every_check_compares_hashes_in_constant_time(keys, monkeypatch):
    """Also for an id that there is not, and for what is no key: time must not tell which ids exist."""
    _, text = keys.create("laptop")
    compared = []
    real = module.hmac.compare_digest
    monkeypatch.setattr(module.hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or real(a, b))
    for sent in (text, f"pj-00000000-{'A' * 43}", "nonsense"):
        keys.check(sent)
    assert compared == [(64, 64)] * 3


def test_a_running_server_refuses_a_revoked_key(keys, monkeypatch):
    """The command writes the file, the server's own object looks at it once a second."""
    _, text = keys.create("laptop")
    server = KeyFile(keys.path)
    assert server.check(text) is not None
    KeyFile(keys.path).revoke("laptop")
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 2)
    assert server.check(text) is None


def test_a_file_that_is_broken_for_a_moment_locks_nobody_out(keys, monkeypatch):
    _, text = keys.create("laptop")
    keys.path.write_text("{")
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 2)
    assert keys.check(text) is not None
    with pytest.raises(ApiKeyError, match="line 1"):
        keys.known()


@pytest.mark.parametrize("written", ["[]", '{"keys": 3}', '{"keys": [{"id": "x"}]}', '{"keys": [7]}'])
def test_what_is_no_file_of_keys_is_named(tmp_path, written):
    path = tmp_path / "keys.json"
    path.write_text(written)
    with pytest.raises(ApiKeyError, match=r"keys\.json"):
        KeyFile(path).known()


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "名字!", "../x"])
def test_odd_names_are_refused(keys, name):
    with pytest.raises(ApiKeyError, match="1 to 64"):
        keys.create(name)


def test_names_that_two_keys_have_are_revoked_by_id(keys):
    first, _ = keys.create("laptop")
    keys.create("laptop")
    with pytest.raises(ApiKeyError, match="by id"):
        keys.revoke("laptop")
    assert keys.revoke(first.id).id == first.id
    assert keys.revoke("laptop").id != first.id
    with pytest.raises(ApiKeyError, match="no key in force"):
        keys.revoke("laptop")


def test_a_public_address_needs_a_key_in_force(keys):
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        check_address(host, None)
    for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", ""):
        with pytest.raises(ConfigError, match="penjing keys create"):
            check_address(host, None)
        with pytest.raises(ConfigError, match="penjing keys create"):
            check_address(host, keys)
    key, _ = keys.create("laptop")
    check_address("0.0.0.0", keys)
    keys.revoke(key.id)
    with pytest.raises(ConfigError, match="penjing keys create"):
        check_address("0.0.0.0", keys)


def test_the_command_line_makes_shows_and_revokes(tmp_path):
    file = str(tmp_path / "keys.json")
    run = CliRunner().invoke
    made = json.loads(run(app, ["keys", "create", "laptop", "--rate", "60", "--file", file, "--json"]).output)
    assert KeyFile(tmp_path / "keys.json").check(made["key"]).rate == 60
    (row,) = json.loads(run(app, ["keys", "list", "--file", file, "--json"]).output)
    assert row["id"] == made["id"]
    assert "hash" not in row
    assert "60 a minute" in run(app, ["keys", "list", "--file", file]).output
    assert "revoked" in run(app, ["keys", "revoke", made["id"], "--file", file]).output
    assert KeyFile(tmp_path / "keys.json").check(made["key"]) is None
    refused = run(app, ["keys", "revoke", made["id"], "--file", file])
    assert isinstance(refused.exception, ApiKeyError)
