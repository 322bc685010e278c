"""A real server and a real Chromium for the page's tests; both are there once for all of them."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference import tiny
from tests.studio.rules import Rules

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--force-color-profile=srgb"]
SIZES = {"desktop": (1280, 800), "phone": (390, 844)}


class Served:
    """The whole application on a port of this machine; it can be stopped and started again on the same one."""

    def __init__(self, folder: Path):
        from penjing.models.folder import save

        self.folder = folder
        self.rules = Rules()
        tokenizer = tiny.tokenizer()
        self.tokenizer, self.model = tokenizer, tiny.model(tokenizer.vocab_size, context=256)
        save(folder / "tiny", self.model, tokenizer)
        self.port = 0
        self.start()

    def start(self) -> None:
        from penjing.serving.app import create_app
        from penjing.serving.limits import Limits
        from penjing.serving.registry import Source
        from penjing.serving.server import Server, _settings, listen
        from penjing.serving.settings import ServeSettings

        settings = ServeSettings(
            models=(Source("tiny", str(self.folder / "tiny")),),
            conversations=str(self.folder / "chats.db"),
            runs=self.folder / "runs",
            precision="fp32",
            safety=False,
            limits=Limits(),
        )
        self.app = create_app(settings)
        self.app.state.backends.add("rules", self.rules)
        self.listener = listen("127.0.0.1", self.port)
        self.port = self.listener.getsockname()[1]
        begun = threading.Event()
        self.server = Server(_settings(self.app, settings.limits), begun.set)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        assert begun.wait(60)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(30)
        self.listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="session")
def served(tmp_path_factory) -> Iterator[Served]:
    server = Served(tmp_path_factory.mktemp("served"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def screens(tmp_path_factory) -> Path:
    """Where screenshots go: `PENJING_SCREENSHOTS`, or a folder of this run's."""
    named = os.environ.get("PENJING_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screens")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\nscreenshots: {folder}")
    return folder


@pytest.fixture(scope="module")  # while it lives, its event loop runs in this thread, and no other test can start one
def chromium():
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed (Debian: apt-get install chromium fonts-noto-cjk)")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (pip install playwright)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def until(page, expression: str, arg=None, seconds: float = 60) -> None:
    """Waits until it is true on the page. (Playwright's own wait evaluates text there, which our policy forbids.)"""
    end = time.monotonic() + seconds
    while not page.evaluate(expression, arg):
        assert time.monotonic() < end, f"never true: {expression}"
        page.wait_for_timeout(20)


class Visit:
    """A browser's window on the page, which notes what must not happen."""

    def __init__(self, browser, served: Served, language: str, size: str, theme: str = "light"):
        width, height = SIZES[size]
        self.served, self.language, self.size, self.theme = served, language, size, theme
        self.context = browser.new_context(
            viewport={"width": width, "height": height},
            locale={"en": "en-US", "zh": "zh-CN"}[language],
            color_scheme=theme,
            has_touch=size == "phone",
            is_mobile=size == "phone",
            device_scale_factor=1,
            accept_downloads=True,
        )
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=served.url)
        self.problems: list[str] = []
        self.elsewhere: list[str] = []
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", lambda message: self._said(message))
        self.page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        self.context.on("request", lambda request: self._asked(request.url))

    def _said(self, message) -> None:
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    def _asked(self, url: str) -> None:
        if not url.startswith((self.served.url, "data:", "blob:", "about:")):
            self.elsewhere.append(url)

    def open(self, path: str = "/"):
        self.page.goto(self.served.url + path)
        self.page.wait_for_selector("#model option, #runs a, #none:not([hidden])", state="attached")
        return self.page

    def side(self) -> None:
        """Has the list of conversations in sight."""
        if self.size == "phone" and "side-open" not in (self.page.locator("body").get_attribute("class") or ""):
            self.page.locator('.head [data-do="side"]').click()

    def ask(self, text: str, *, wait: bool = True):
        """Writes a message and sends it; the reply's element."""
        before = self.page.locator(".message.assistant").count()
        self.page.locator("#question").fill(text)
        self.page.keyboard.press("Enter")
        reply = self.page.locator(".message.assistant").nth(before)
        if wait:
            self.page.wait_for_selector(".message.assistant:last-child:not(.running)")
            self.page.locator("#send").wait_for()
        return reply

    def screen(self, folder: Path, name: str) -> None:
        self.page.screenshot(path=folder / f"{name}-{self.language}-{self.size}-{self.theme}.png")

    def check(self) -> None:
        assert self.problems == []
        assert self.elsewhere == []

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def visit(chromium, served):
    """Opens windows, and sees at the end that no one complained and nothing was asked of other hosts."""
    visits: list[Visit] = []

    def opened(language: str = "en", size: str = "desktop", theme: str = "light") -> Visit:
        made = Visit(chromium, served, language, size, theme)
        made.page.goto(served.url + "/health")
        made.page.evaluate("localStorage.clear()")
        visits.append(made)
        return made

    yield opened
    try:
        for one in visits:
            one.check()
    finally:
        for one in visits:
            one.close()
