"""The page's files and routes, without a browser: what the policy needs, what is sent, what is refused."""

import json
import re
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from penjing.serving.api import errors
from penjing.serving.backend import UnknownModelError
from penjing.studio import icons, pages
from tests.inference import tiny
from tests.studio.rules import Rules

PAGE = Path(pages.__file__).parent / "page"


class Local(Rules):
    """The backend of rules, with a model in this process."""

    def __init__(self):
        super().__init__()
        self.tokenizer = tiny.tokenizer()
        self.model = tiny.model(self.tokenizer.vocab_size, context=128)

    async def run(self, work, **arguments):
        return work(self.model, self.tokenizer, **arguments)


class Two:
    """A local model and one that runs elsewhere."""

    def __init__(self):
        self.known = {"local": Local(), "rules": Rules()}

    def names(self):
        return list(self.known)

    async def get(self, name):
        if (name or "local") not in self.known:
            raise UnknownModelError(f"there is no model '{name}'")
        return self.known[name or "local"]


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> TestClient:
    app = FastAPI()
    errors.install(app)
    app.include_router(pages.router(tmp_path_factory.mktemp("runs")))
    app.state.backends = Two()
    return TestClient(app)


class Inline(HTMLParser):
    """What a policy of `default-src 'self'` would not let run or load."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if tag == "style" or (tag == "script" and "src" not in given):
            self.found.append(f"<{tag}>")
        self.found += [name for name in given if name == "style" or name.startswith("on")]
        addresses = [given[name] for name in ("src", "href") if name in given]
        self.found += [address for address in addresses if not re.match(r"[/#](?!/)", address)]


@pytest.mark.parametrize("path", ["/", "/runs"])
def test_a_page_has_nothing_that_its_policy_forbids(client, path):
    answer = client.get(path)
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert Inline(answer.text).found == []


def test_the_page_is_small_and_loads_nothing_of_others():
    """No script of a third party, no address of another host in any file but namespaces of SVG."""
    lines = 0
    for path in PAGE.iterdir():
        text = path.read_text()
        lines += text.count("\n")
        hosts = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+", text)) - {"http://www.w3.org"}
        assert hosts == set(), path.name
    assert lines < 3_500


def test_every_file_that_the_page_asks_for_is_there(client):
    """Modules that are imported, files that the HTML names, what the worker keeps."""
    wanted = {"/manifest.webmanifest", "/sw.js"}
    for path in PAGE.iterdir():
        wanted |= set(re.findall(r"[\"'](/studio/[\w.-]+)", path.read_text()))
    worker = client.get("/sw.js").text
    wanted |= set(json.loads(re.search(r"const FILES = (\[.*\]);", worker)[1]))
    assert len(wanted) > 20
    for path in wanted:
        assert client.get(path).status_code == 200, path


def test_every_symbol_that_is_drawn_is_there():
    symbols = set(re.findall(r'<symbol id="([\w-]+)"', (PAGE / "symbols.svg").read_text()))
    for path in PAGE.iterdir():
        text = path.read_text()
        used = set(re.findall(r"symbols\.svg#([\w-]+)", text))
        used |= set(re.findall(r'(?:symbol|iconButton)\("([\w-]+)"', text))
        assert used <= symbols, path.name


def test_both_languages_say_the_same_things():
    """Every key is in both, with the same blanks; every key that the page uses is one of them."""
    text = (PAGE / "words.js").read_text()
    tables = []
    for name in ("EN", "ZH"):
        block = text[text.index(f"const {name} = {{") :]
        pairs = re.findall(r'^  "?([\w-]+)"?: (?:"((?:[^"\\]|\\.)*)"|\[)', block[: block.index("\n};")], re.MULTILINE)
        tables.append(dict(pairs))
    english, chinese = tables
    assert set(english) == set(chinese)
    for key, words in english.items():
        assert set(re.findall(r"\{\w+\}", words)) == set(re.findall(r"\{\w+\}", chinese[key])), key
    for path in PAGE.iterdir():
        source = path.read_text()
        used = re.findall(r'data-i18n(?:-label|-placeholder)?="([\w-]+)"', source)
        used += re.findall(r'\bt\("([\w-]+)"', source) if path.name != "words.js" else []
        assert set(used) <= set(english), path.name


def test_an_unchanged_file_is_not_sent_again(client):
    first = client.get("/studio/app.js")
    again = client.get("/studio/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nosuch.js", "..%2fpages.py", "%2e%2e/pages.py", "index.html/../../pages.py"])
def test_only_the_pages_own_files_are_served(client, name):
    assert client.get(f"/studio/{name}").status_code == 404


def read_png(content: bytes) -> np.ndarray:
    """A PNG of ours, decoded by the specification: 8 bits, RGBA, no filter."""
    place, data = 8, b""
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        name, body = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        assert struct.unpack(">I", content[place + 8 + size : place + 12 + size])[0] == zlib.crc32(name + body)
        if name == b"IHDR":
            wide, high = struct.unpack(">II", body[:8])
        data += body if name == b"IDAT" else b""
        place += 12 + size
    return np.frombuffer(zlib.decompress(data), np.uint8).reshape(high, 1 + 4 * wide)[:, 1:].reshape(high, wide, 4)


def test_the_icon_is_a_png_with_a_tree_in_it():
    """Transparent corners, paper, leaves where the shapes say; a maskable one is opaque, its tree in the safe part."""
    picture = read_png(icons.png(192))
    assert picture.shape == (192, 192, 4)
    assert picture[0, 0, 3] == 0
    assert picture[int(0.27 * 192), int(0.51 * 192)].tolist() == [0x3F, 0x6B, 0x57, 255]
    assert picture[int(0.1 * 192), 96].tolist() == [0xF4, 0xF1, 0xE8, 255]
    masked = read_png(icons.png(192, maskable=True))
    assert (masked[..., 3] == 255).all()
    y, x = np.nonzero((masked[..., :3] != [0xF4, 0xF1, 0xE8]).any(-1))
    assert (np.hypot((x + 0.5) / 192 - 0.5, (y + 0.5) / 192 - 0.5) < 0.4).all()


ASKED = [{"role": "user", "content": "the tray"}, {"role": "assistant", "content": "in the hat"}]


def test_a_look_inside_by_http(client):
    """What the route sends is what `look` gives, and a distribution: sorted, summing to at most 1."""
    found = client.post("/api/look", json={"messages": ASKED, "top": 3}).json()
    assert found["layers"] == 2
    assert "".join(token["text"] for token in found["tokens"]) == "in the hat<|im_end|>"
    for token in found["tokens"]:
        top = [other["probability"] for other in token["top"]]
        assert len(top) == 3
        assert top == sorted(top, reverse=True)
        assert sum(top) <= 1
    place = found["tokens"][2]["place"]
    seen = client.post("/api/look/attention", json={"messages": ASKED, "place": place, "layer": 1}).json()
    assert len(seen["weights"]) == 4
    assert len(seen["weights"][0]) == len(seen["text"]) == place + 1


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"messages": ASKED[:1]}, 400, "must be the assistant's"),
        ({"messages": [{"role": "user"}]}, 400, "content"),
        ({"messages": [{"role": "nobody", "content": ""}]}, 400, "role"),
        ({"messages": [{**ASKED[0], "name": "ada"}, ASKED[1]]}, 400, "name"),
        ({"messages": ASKED, "model": "rules"}, 400, "runs elsewhere"),
        ({"messages": ASKED, "model": "nosuch"}, 404, "no model 'nosuch'"),
        ({"messages": ASKED, "place": 1, "layer": 7}, 400, "layer 7 is wanted of 2"),
        ({"messages": ASKED, "place": 999}, 400, "token 999 is wanted of"),
    ],
)
def test_a_look_that_is_not_possible_is_refused_with_the_reason(client, body, status, said):
    answer = client.post("/api/look/attention" if "place" in body else "/api/look", json=body)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


def test_a_run_that_is_not_there_is_not_found(client):
    for path in ("curves?run=x", "details?run=../x", "plot?path=/etc/passwd", "report?path=x/report.md"):
        answer = client.get(f"/api/runs/{path}")
        assert answer.status_code == 404
        assert "there is no run" in answer.json()["error"]["message"]
