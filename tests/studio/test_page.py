"""The page as a person uses it: a real Chromium, the real application, a model of rules and a tiny random one.

What is asserted is what a person sees. Every window, at its end, must not have logged an error or a warning, and must
not have asked anything of another host (`conftest.visit`). Screenshots are kept in the folder that is printed.
"""

import json
import re

import pytest
import torch

from penjing.studio import icons
from penjing.studio.look import read
from penjing.studio.pages import POLICY
from tests.studio.conftest import ARGUMENTS, CHROMIUM, until
from tests.studio.rules import long_reply

WORDS = {
    "en": {
        "new": "New chat",
        "away": "The server is away",
        "rename": "Rename",
        "delete": "Delete",
        "stopped": "Interrupted",
    },
    "zh": {"new": "新对话", "away": "连不上服务器", "rename": "重命名", "delete": "删除", "stopped": "已中断"},
}


def use(visit, model: str) -> None:
    visit.page.locator("#model").select_option(model)


def axe(page) -> list[str]:
    """axe-core's serious and critical findings."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:150] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def session(v, served, screens) -> None:
    """What a person does in the first ten minutes."""
    words = WORDS[v.language]
    page = v.open()
    assert page.locator("html").get_attribute("lang") == v.language
    assert page.locator(".ideas button").count() == 4
    v.screen(screens, "1-welcome")
    assert axe(page) == []

    # a question, a formatted reply, its code copied
    use(v, "rules")
    reply = v.ask("rich")
    assert reply.locator("h4").inner_text() == "A tray landscape"
    assert reply.locator("math").count() == 2
    assert reply.locator(".code .k").first.inner_text() == "def"
    reply.locator('[data-do="copy-code"]').click()
    assert page.evaluate("navigator.clipboard.readText()").startswith("def grow(tree, years):")
    v.screen(screens, "2-reply")
    assert axe(page) == []
    assert re.search(r"\d+.*2,048", page.locator("#budget").inner_text())
    assert re.search(r"\d", reply.locator(".usage").inner_text())
    assert page.locator("#title").inner_text() == "rich"

    # another reply, and back and forth between the two
    first = v.ask("hello").locator(".prose").inner_text()
    last = page.locator(".message.assistant").last
    last.locator("button").nth(1).click()
    page.wait_for_selector(".message.assistant:last-child .branches")
    page.locator("#send").wait_for()
    second = last.locator(".prose").inner_text()
    assert first != second
    assert "2/2" in last.locator(".branches").inner_text()
    last.locator(".branches button").first.click()
    until(page, "text => document.querySelector('.message:last-child .prose').innerText === text", arg=first)

    # an edited question is a branch too
    asked = page.locator(".message.user").last
    asked.hover()
    asked.locator("[data-edit]").click()
    page.locator(".edit").fill("hello again")
    page.keyboard.press("Enter")
    until(page, "document.querySelector('.message:last-child .prose')?.innerText.includes('hello again')")
    page.locator("#send").wait_for()
    assert "2/2" in page.locator(".message.user").last.locator(".branches").inner_text()

    # a thumb, which is kept
    last = page.locator(".message.assistant").last
    last.locator("button").nth(3).click()
    page.wait_for_selector('.message:last-child [aria-pressed="true"]')

    # a reply is stopped, and the model is not asked for more
    before = served.rules.stopped
    v.ask("endless", wait=False)
    until(page, "document.querySelectorAll('.message:last-child .block').length > 2")
    page.locator("#stop").click()
    page.locator("#send").wait_for()
    assert words["stopped"] in page.locator(".message.assistant").last.inner_text()
    assert served.rules.stopped == before + 1

    # system prompt
    page.locator('.head [data-do="settings"]').click()
    page.locator("#system").fill("be brief")
    with page.expect_response(lambda response: response.request.method == "PATCH"):
        page.locator("#system").press("Tab")
    v.screen(screens, "3-settings")
    assert axe(page) == []
    page.locator("#settings .panel-head button").click()
    assert "(be brief)" in v.ask("and now").inner_text()

    # all is there after a reload: the branch that was shown, the thumb, the settings
    shown = page.locator(".message").all_inner_texts()
    page.reload()
    until(page, "count => document.querySelectorAll('.message').length === count", arg=len(shown))
    assert page.locator("#model").input_value() == "rules"

    # history: a second conversation, search, rename, delete
    v.side()
    page.locator('[data-do="new"]').click()
    v.ask("一个关于盆景的问题")
    v.side()
    page.locator("#search").fill("盆景")
    until(page, "document.querySelectorAll('#conversations .conversation').length === 1")
    page.locator("#search").fill("hello")
    until(page, "document.querySelector('#conversations .name')?.innerText === 'rich'")
    page.locator("#search").fill("")
    until(page, "document.querySelectorAll('#conversations .conversation').length >= 2")
    v.screen(screens, "4-history")
    assert axe(page) == []
    page.locator("#conversations li").first.hover()
    page.locator("#conversations li .icon").first.click()
    page.locator("dialog").get_by_role("button", name=words["rename"]).click()
    page.locator("dialog input").fill("改过的名字")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="改过的名字").wait_for()
    page.locator("#conversations li .icon").first.click()
    page.locator("dialog").get_by_role("button", name=words["delete"]).click()
    page.locator("dialog").get_by_role("button", name=words["delete"]).click()
    page.get_by_role("link", name="改过的名字").wait_for(state="detached")
    assert page.locator("#title").inner_text() == words["new"]


@pytest.mark.parametrize(("language", "size"), [("en", "desktop"), ("zh", "phone")])
def test_a_whole_session(visit, served, screens, language, size):
    session(visit(language, size), served, screens)


@pytest.mark.slow
@pytest.mark.parametrize(("language", "size", "theme"), [("zh", "desktop", "dark"), ("en", "phone", "dark")])
def test_a_whole_session_in_other_sizes_and_in_the_dark(visit, served, screens, language, size, theme):
    session(visit(language, size, theme), served, screens)


def test_a_hostile_reply_is_harmless(visit, screens):
    v = visit()
    page = v.open()
    use(v, "rules")
    reply = v.ask("hostile")
    v.screen(screens, "hostile")
    assert page.evaluate("window.broken") is None
    assert reply.locator("script, img, iframe").count() == 0
    assert [link.get_attribute("href") for link in reply.locator("a").all()] == ["https://elsewhere.example/spy.png"]
    page.reload()
    page.wait_for_selector(".message.assistant .code")
    assert page.evaluate("window.broken") is None


def test_the_policy_forbids_what_the_cleaner_would_let_through(visit):
    """Even a script that got into the page does not run, and nothing is loaded from elsewhere."""
    v = visit()
    page = v.open()
    assert page.request.get(page.url).headers["content-security-policy"] == POLICY
    page.evaluate(
        """() => {
            document.getElementById("thread").innerHTML = '<img src="x" onerror="window.broken = 1">';
            const script = document.createElement("script");
            script.textContent = "window.broken = 2";
            document.body.append(script);
        }"""
    )
    until(page, "document.querySelector('#thread img').complete")
    assert page.evaluate("window.broken") is None
    assert any("Content Security Policy" in problem for problem in v.problems)
    v.problems.clear()


def test_enter_that_chooses_a_chinese_word_sends_nothing(visit):
    """A real composition through Chromium's input-method interface, then Safari's way to say it (keyCode 229)."""
    v = visit("zh")
    page = v.open()
    use(v, "rules")
    page.locator("#question").focus()
    devtools = v.context.new_cdp_session(page)
    devtools.send("Input.imeSetComposition", {"text": "penjing", "selectionStart": 7, "selectionEnd": 7})
    enter = {"type": "rawKeyDown", "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    devtools.send("Input.dispatchKeyEvent", enter)  # the input method has it: no text of its own comes with it
    assert page.locator(".message").count() == 0
    devtools.send("Input.insertText", {"text": "盆景"})
    assert page.locator("#question").input_value() == "盆景"
    page.evaluate(
        """document.getElementById("question").dispatchEvent(
            new KeyboardEvent("keydown", { key: "Enter", keyCode: 229, bubbles: true, cancelable: true }))"""
    )
    assert page.locator(".message").count() == 0
    page.keyboard.press("Shift+Enter")
    assert page.locator("#question").input_value() == "盆景\n"
    page.keyboard.press("Enter")
    page.wait_for_selector(".message.assistant:not(.running)")
    assert page.locator(".message.user .said").inner_text() == "盆景"


def test_the_view_follows_a_growing_reply_until_the_reader_moves_away(visit):
    v = visit()
    page = v.open()
    use(v, "rules")
    v.ask("endless", wait=False)
    until(page, "document.querySelectorAll('.message:last-child .block').length > 16")
    gap = "(s => s.scrollHeight - s.scrollTop - s.clientHeight)(document.getElementById('scroller'))"
    assert page.evaluate(gap) < 40
    page.locator("#scroller").hover()
    page.mouse.wheel(0, -300)
    page.wait_for_selector("#latest:not([hidden])")
    top = page.evaluate("document.getElementById('scroller').scrollTop")
    count = page.locator(".message:last-child .block").count()
    until(page, "count => document.querySelectorAll('.message:last-child .block').length > count + 5", arg=count)
    assert page.evaluate("document.getElementById('scroller').scrollTop") == pytest.approx(top, abs=2)
    page.locator("#latest").click()
    until(page, gap + " < 40")
    page.keyboard.press("Escape")
    page.locator("#send").wait_for()


def test_a_reply_is_found_again_after_a_reload_and_goes_on(visit):
    v = visit()
    page = v.open()
    use(v, "rules")
    v.ask("endless", wait=False)
    until(page, "document.querySelectorAll('.message:last-child .block').length > 3")
    page.reload()
    until(page, "document.querySelectorAll('.message:last-child .block').length > 8")
    shown = page.locator(".message:last-child .prose").text_content()  # what is out of view has no inner text
    numbers = [int(number) for number in re.findall(r"(\d+) and on", shown)]
    assert numbers == list(range(len(numbers)))  # nothing is missing, nothing comes twice
    page.locator("#stop").click()
    page.locator("#send").wait_for()


def test_what_the_server_does_not_take_is_given_back(visit):
    """A message that is too long for the server stays in the field, and the page says why."""
    v = visit()
    page = v.open()
    use(v, "rules")
    v.ask("hello")
    page.locator("#question").fill("x" * 300_000)
    page.keyboard.press("Enter")
    page.wait_for_selector("#toast:not([hidden])")
    until(page, "document.getElementById('question').value.length === 300000")
    assert page.locator(".message").count() == 2
    assert [problem for problem in v.problems if "status of 4" in problem]
    v.problems.clear()


def test_a_look_inside_shows_what_the_model_computes(visit, served, screens):
    """Oracle: softmax of the served model, of the conversation as its template writes it; 1e-5."""
    v = visit()
    page = v.open()
    use(v, "tiny")
    page.locator('.head [data-do="settings"]').click()
    page.locator('#settings input[type="number"]').first.fill("24")
    page.locator('#settings input[type="number"]').nth(1).fill("3")
    page.locator("#settings .panel-head button").click()
    v.ask("What is in the tray?")
    identity = page.evaluate("location.hash.slice(1)")
    told = page.request.get(f"{served.url}/api/conversations/{identity}").json()
    messages = [{"role": one["role"], "content": one["content"]} for one in told["messages"]]
    reading = read(served.model, served.tokenizer, messages)
    with torch.no_grad():
        expected = served.model(torch.tensor([reading.ids]))[0].softmax(-1)
    page.locator(".look-button").click()
    page.wait_for_selector(".token")
    assert page.locator(".token").count() == len(reading.reply)
    page.keyboard.press("ArrowRight")  # the field of tokens has the focus
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".grid .cell")
    place = reading.reply[1]
    rows = page.locator(".alternatives li").all()
    found = [float(row.get_attribute("data-probability")) for row in rows]
    assert found[:12] == pytest.approx(expected[place - 1].topk(12).values.tolist(), abs=1e-5)
    chosen = float(page.locator(".alternatives .is-chosen").get_attribute("data-probability"))
    assert chosen == pytest.approx(float(expected[place - 1, reading.ids[place]]), abs=1e-5)
    assert page.locator(".grid tr").count() == 2
    page.locator(".grid tr").first.locator(".cell").nth(2).click()
    page.wait_for_selector('.grid tr:first-child .cell[aria-pressed="true"]')
    weights = [float(one.get_attribute("data-weight")) for one in page.locator(".attended span").all()]
    assert len(weights) == place
    assert sum(weights) == pytest.approx(1, abs=1e-4)
    v.screen(screens, "look")
    assert axe(page) == []
    page.keyboard.press("Escape")
    page.wait_for_selector(".message.assistant .prose")
    use(v, "rules")
    page.locator(".look-button").click()
    page.wait_for_selector("#toast:not([hidden])")
    assert "runs elsewhere" in page.locator("#toast").inner_text()
    v.problems = [problem for problem in v.problems if "status of 400" not in problem]  # which the page asked for


def test_keyboard_alone(visit):
    v = visit()
    page = v.open()
    use(v, "rules")
    page.locator("#question").focus()
    v.ask("hello")
    page.keyboard.press("ArrowUp")
    assert page.locator(".edit").input_value() == "hello"
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("dialog dt").count() >= 12
    assert axe(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("Control+k")
    assert page.evaluate("document.activeElement.id") == "search"
    page.keyboard.press("Control+Shift+O")
    assert page.locator(".message").count() == 0
    assert page.evaluate("document.activeElement.id") == "question"
    page.keyboard.press("Control+Shift+L")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.keyboard.press("Control+Shift+S")
    assert not page.locator("#history").is_visible()


def test_it_can_be_installed(chromium, served, tmp_path):
    """Chromium's own check of what an app needs, in a window that is not private: in those nothing is installed."""
    with chromium.browser_type.launch_persistent_context(
        str(tmp_path), executable_path=CHROMIUM, args=ARGUMENTS
    ) as context:
        page = context.new_page()
        page.goto(served.url)
        until(page, "navigator.serviceWorker.controller !== null")
        devtools = context.new_cdp_session(page)
        assert devtools.send("Page.getAppManifest")["errors"] == []
        assert devtools.send("Page.getInstallabilityErrors")["installabilityErrors"] == []


def test_it_opens_without_a_server_and_says_that_it_is_away(visit, served, screens):
    """The server is really stopped, and started again on the same port."""
    v = visit()
    page = v.open()
    until(page, "navigator.serviceWorker.controller !== null")
    served.stop()
    try:
        page.reload()
        page.wait_for_selector("#away:not([hidden])")
        assert WORDS["en"]["away"] in page.locator("#away").inner_text()
        page.locator("#question").fill("kept while away")
        page.keyboard.press("Enter")
        v.screen(screens, "away")
        page.reload()
        assert page.locator("#question").input_value() == "kept while away"
    finally:
        served.start()
    page.wait_for_selector("#away", state="hidden")
    until(page, "document.querySelectorAll('#model option').length === 2")
    use(v, "rules")
    page.locator("#question").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".message.assistant:not(.running)")
    v.problems.clear()  # what Chromium says of each request that found no server


def test_training_runs_are_drawn_and_go_on(visit, served, screens):
    folder = served.folder / "runs" / "first" / "pretrain"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.jsonl"
    lines = [
        {"step": n, "loss": 2 + 6 / n, "tokens": 64 * n, "seconds": n / 9, "grad_norm": 1.0} for n in range(1, 101)
    ]
    lines.append({"step": 100, "seconds": 12.0, "validation": {"loss": 2.2}})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "samples.jsonl").write_text('{"step": 100, "text": "<b>Once</b> upon a tray"}\n')
    (folder.parent / "report.md").write_text("# It went *well*\n\n| loss |\n|---|\n| 2.1 |\n")
    (folder / "loss.png").write_bytes(icons.png(64))
    v = visit("zh", "phone")
    page = v.open("/runs")
    page.wait_for_selector(".chart canvas")
    assert page.locator(".chart strong").all_inner_texts() == ["loss", "grad_norm"]
    assert "第 100 步" in page.locator(".chart canvas").first.get_attribute("aria-label")
    assert page.evaluate(INKED) > 20
    assert page.locator("#texts p").inner_text() == "<b>Once</b> upon a tray"
    page.wait_for_selector("#page em")
    until(page, "document.querySelector('#pictures img').naturalWidth === 64")
    v.screen(screens, "runs")
    assert axe(page) == []
    with path.open("a") as file:
        file.write(json.dumps({"step": 101, "loss": 1.25, "tokens": 6464, "seconds": 13.0, "grad_norm": 1.0}) + "\n")
    until(page, "document.querySelector('.chart .reading').innerText === '1.25'")


INKED = """() => {
    const canvas = document.querySelector(".chart canvas");
    return new Set(canvas.getContext("2d").getImageData(60, 10, canvas.width - 80, 150).data).size;
}"""
FRAMES = """() => {
    const seen = { frames: [], long: [] };
    window.seen = seen;
    let last = performance.now();
    const frame = (now) => { seen.frames.push(now - last); last = now; if (!seen.over) requestAnimationFrame(frame); };
    requestAnimationFrame(frame);
    new PerformanceObserver((list) => list.getEntries().forEach((one) => seen.long.push(one.duration)))
        .observe({ type: "longtask" });
}"""


@pytest.mark.slow
def test_a_200_kb_reply_stays_fluid(visit, screens):
    """Frame times while 200 KB stream in, measured by the page's own frames; they are printed.

    What makes such pages stall is work that grows with the reply. So the last third's frames may take little longer
    than the first third's: at the 90th percentile at most twice as long, or within three frames of a 60 Hz screen.
    """
    v = visit()
    page = v.open()
    use(v, "rules")
    v.ask("hello")
    page.evaluate(FRAMES)
    page.set_default_timeout(600_000)
    v.ask("long 200000")
    seen = page.evaluate("(() => { seen.over = true; return seen })()")
    frames = seen["frames"]
    thirds = [sorted(frames[part * len(frames) // 3 : (part + 1) * len(frames) // 3]) for part in range(3)]
    ninety = [third[int(0.9 * len(third))] for third in thirds]
    middle = sorted(frames)[len(frames) // 2]
    print(
        f"\n200 KB: {len(frames)} frames, median {middle:.1f} ms, 90th percentile by thirds "
        f"{', '.join(f'{time:.1f}' for time in ninety)} ms, longest {max(frames):.0f} ms; "
        f"{len(seen['long'])} tasks over 50 ms, longest {max(seen['long'], default=0):.0f} ms"
    )
    v.screen(screens, "long")
    assert page.locator(".message.assistant").last.locator("h5").count() == long_reply(200_000).count("### Part")
    assert ninety[2] < max(2 * ninety[0], 50)
