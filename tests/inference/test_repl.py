"""The terminal chat, driven by a fake terminal and by a pipe; and the commands that start it."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

import penjing
from penjing.cli import app
from penjing.errors import GenerationError
from penjing.inference.local import LocalChatModel
from penjing.inference.repl import Repl, lines_of
from penjing.inference.sampling import Sampling
from penjing.inference.session import ChatSession
from penjing.inference.tools import CALL_OPEN
from tests.inference import tiny
from tests.inference.test_chat import CALL, Scripted

TOKENIZER = tiny.tokenizer()


def talk(
    lines: Iterable[str],
    *answers: str,
    interactive: bool = True,
    as_json: bool = False,
    notes: io.StringIO | None = None,
) -> tuple[str, ChatSession]:
    """What is printed when these lines are typed, and the session afterwards."""
    model = LocalChatModel(Scripted(*answers), TOKENIZER, {"add": lambda a, b: a + b}, name="tiny")
    session, out = ChatSession(model, Sampling(temperature=0, max_new_tokens=120)), io.StringIO()
    Repl(session, lines_of(lines), out, interactive=interactive, as_json=as_json, notes=notes).run()
    return out.getvalue(), session


def test_a_conversation_in_a_pipe_prints_the_answers_only():
    printed, session = talk(["first\n", "\n", "second\n"], "the one", "the other", interactive=False)
    assert printed == "the one\nthe other\n"
    assert len(session.messages) == 4


def test_in_a_pipe_tools_are_silent_and_commands_speak_elsewhere():
    notes = io.StringIO()
    lines = ["/system Be kind.", "2 and 3?", "/system", "/set temperature 0.5"]
    printed, session = talk(lines, CALL, "It is 5.", interactive=False, notes=notes)
    assert printed == "It is 5.\n"
    assert notes.getvalue() == "Be kind.\n"
    assert session.sampling.temperature == 0.5


@pytest.mark.parametrize(
    ("line", "message"), [("/hlep", "did you mean 'help'"), ("x " * 500, "only"), ("\udcff", "not UTF-8")]
)
def test_in_a_pipe_what_cannot_be_done_is_an_error(line, message):
    with pytest.raises(GenerationError, match=message):
        talk([line, "first"], "one", interactive=False)


def test_a_pipe_can_have_json():
    """An object for each answer; with tools, the last message's, and what all rounds cost."""
    printed, session = talk(["2 and 3?", "//etc?"], CALL, "It is 5.", "A folder.", interactive=False, as_json=True)
    first, second = map(json.loads, printed.splitlines())
    assert first["message"] == {"role": "assistant", "content": "It is 5."}
    assert first["reason"] == "stop"
    assert first["usage"]["completion_tokens"] == sum(len(TOKENIZER.encode(text)) + 1 for text in (CALL, "It is 5."))
    assert second["message"]["content"] == "A folder."
    assert session.messages[-2] == {"role": "user", "content": "/etc?"}


def test_ctrl_c_in_a_pipe_is_not_swallowed():
    session = ChatSession(LocalChatModel(Scripted("one"), TOKENIZER))
    with pytest.raises(KeyboardInterrupt):
        Repl(session, keys(KeyboardInterrupt), io.StringIO(), interactive=False).run()


def test_a_terminal_shows_who_speaks_and_what_tools_do():
    printed, _ = talk(["2 and 3?"], CALL, "It is 5.")
    assert "Talking to tiny" in printed
    assert "penjing> [add(a=2, b=3) = 5]\nIt is 5.\n" in printed
    assert CALL_OPEN not in printed


def test_commands_change_the_conversation_and_the_settings():
    printed, session = talk(
        ["/system Be kind.", "/system", "/set temperature 0.7", "/settings", "first", "/reset"], "one"
    )
    assert session.messages == [{"role": "system", "content": "Be kind."}]
    assert session.sampling.temperature == 0.7
    assert "Be kind.\n" in printed
    assert "temperature          0.7" in printed
    _, session = talk(["/system Be kind.", "/system -"])
    assert session.messages == []


def test_save_and_load(tmp_path: Path):
    path = tmp_path / "chat.json"
    _, session = talk(["first", f"/save {path}"], "one")
    printed, other = talk([f"/load {path}"])
    assert other.messages == session.messages
    assert "took up 2 messages" in printed


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/hlep", "there is no command /hlep; did you mean 'help'?"),
        ("/", "there is no command /"),
        ("/set temperature", "write /set NAME VALUE"),
        ("/set temprature 1", "did you mean 'temperature'"),
        ("/set temperature -1", "temperature is -1.0"),
        ("/save", "write /save FILE"),
        ("/load nowhere.json", "there is no file nowhere.json"),
        ("/load ~nosuchuser/x", "~nosuchuser/x: there is no such home folder"),
        ("/load " + "x" * 300, "cannot be read"),
        ("/load a\0b", "no file name"),
        ("\udcff", "not UTF-8"),
        ("x " * 500, "only"),
    ],
)
def test_what_cannot_be_done_is_said_and_the_chat_goes_on(line, message):
    printed, session = talk([line, "first"], "one")
    assert message in printed
    assert session.messages[-1] == {"role": "assistant", "content": "one"}


@pytest.mark.parametrize(
    ("name", "message"),
    [("~nosuchuser/x", "no such home folder"), ("x" * 300, "cannot be written"), ("x" * 250, "could not be written"),
     ("a\0b", "no file name"), ("taken/x.json", "could not be written")],
)  # fmt: skip
def test_what_cannot_be_saved_is_said_and_nothing_is_lost(tmp_path: Path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file, no folder")
    printed, session = talk(["first", f"/save {name}", "second"], "one", "two")
    assert message in printed
    assert [message["content"] for message in session.messages] == ["first", "one", "second", "two"]
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_folder_that_may_not_be_read_is_said(monkeypatch):
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    printed, session = talk(["first", "/save locked/x.json"], "one")
    assert "locked/x.json cannot be written: Permission denied" in printed
    assert len(session.messages) == 2


def test_help_lists_every_command_and_exit_leaves():
    printed, session = talk(["/help", "/exit", "first"], "one")
    for command in ("help", "system", "reset", "set", "settings", "save", "load", "exit"):
        assert f"/{command} " in printed
    assert session.messages == []


def test_ctrl_c_stops_the_answer_and_keeps_the_conversation():
    """An interrupt in the middle of the answer; then one at the prompt; then a second question, answered as ever."""
    network = Scripted("in the END of it", "second answer")
    session = ChatSession(LocalChatModel(network, TOKENIZER), Sampling(temperature=0, max_new_tokens=50))
    hidden, calls = network.hidden, 0

    def interrupted(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return hidden(*arguments, **options)

    network.hidden = interrupted
    out = io.StringIO()
    Repl(session, keys("first", KeyboardInterrupt, "second"), out, interactive=True).run()
    assert [message["role"] for message in session.messages] == ["user", "assistant", "user", "assistant"]
    assert "in the END of it".startswith(session.messages[1]["content"])
    assert session.messages[1]["content"]
    assert session.messages[3]["content"] == "second answer"
    assert "[stopped]" in out.getvalue()
    assert "Ctrl-D leaves" in out.getvalue()


def keys(*events: "str | type[BaseException]") -> Callable[[], str]:
    """A terminal at which somebody types these lines and presses these keys."""
    waiting = iter(events)

    def read() -> str:
        event = next(waiting, EOFError)
        if isinstance(event, str):
            return event
        raise event

    return read


def test_the_terminal_reads_lines_with_prompt_toolkit():
    """Typed characters, Esc-Enter for a line break, Ctrl-C and Ctrl-D, through a pipe as the keyboard."""
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    from penjing.inference.repl import terminal

    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        read = terminal()
        keyboard.send_text("hello\r")
        assert read() == "hello"
        keyboard.send_text("one\x1b\rtwo\r")
        assert read() == "one\ntwo"
        keyboard.send_text("\x03")
        with pytest.raises(KeyboardInterrupt):
            read()
        keyboard.send_text("\x04")
        with pytest.raises(EOFError):
            read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a random model."""
    place = tmp_path_factory.mktemp("model") / "tiny"
    penjing.save(place, tiny.model(TOKENIZER.vocab_size, context=256), TOKENIZER, generation={"temperature": 0.5})
    return place


def test_the_chat_command_answers_piped_lines(folder: Path):
    """As a user would: a process, its standard input and output. The settings of the folder are the defaults."""
    line = [sys.executable, "-m", "penjing.cli", "chat", str(folder), "--precision", "fp32"]
    typed = "/settings\n/set max_new_tokens 5\nhello\n"
    done = subprocess.run(line, input=typed, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert done.returncode == 0
    assert "temperature          0.5" in done.stderr
    assert "temperature" not in done.stdout


def generate_command(folder: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["generate", str(folder), *arguments, "--precision", "fp32"])


def test_the_generate_command_prints_json(folder: Path):
    """Everything asked for is in it, and it equals what the library gives."""
    options = ["--max-new-tokens", "6", "-n", "2", "--seed", "3", "--logprobs", "2", "--json"]
    found = json.loads(generate_command(folder, "the", *options).stdout)["completions"]
    model, tokenizer = penjing.load(folder)
    assert [c["text"] for c in found] == penjing.generate(
        model, tokenizer, "the", max_new_tokens=6, n=2, seed=3, temperature=0.5
    )
    assert [len(entry["top"]) for c in found for entry in c["logprobs"]] == [2] * 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("the", "--temperature", "-1"), "temperature is -1"),
        (("the", "--top-p", "1.5"), "top_p is 1.5"),
        (("", "--seed", "1"), "prompt is empty"),
        (("the", "--stop", ""), "stop is"),
        (("the " * 300,), "context of 256"),
        (("the", "--beams", "2", "--top-k", "3"), "leave out top_k"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(folder: Path, arguments, message):
    """The error that `cli.main` prints as a line."""
    result = generate_command(folder, *arguments)
    assert isinstance(result.exception, penjing.PenjingError)
    assert message in str(result.exception)
    assert len(str(result.exception)) < 300


def test_what_is_streamed_equals_what_is_printed_whole(folder: Path):
    """And beams, samples and log-probabilities are printed for people."""
    options = ["the", "--max-new-tokens", "20", "--seed", "3"]
    assert generate_command(folder, *options).stdout == generate_command(folder, *options, "--no-stream").stdout
    printed = generate_command(folder, "the", "--max-new-tokens", "3", "--beams", "2", "-n", "2", "--logprobs", "0")
    assert printed.stdout.count("(score -") == 2
    assert printed.exit_code == 0
