"""`penjing chat MODEL`: a conversation in the terminal."""

from pathlib import Path
from typing import Annotated

import typer

from penjing.commands._loading import CHAT_MODEL_HELP, Device, Precision, TokenizerSource, given, load, preferred


def chat(
    model: Annotated[str, typer.Argument(help=CHAT_MODEL_HELP, show_default=False)],
    system: Annotated[str, typer.Option(help="What the model is told before the conversation.")] = "",
    temperature: Annotated[float | None, typer.Option(help="0: always the most probable token.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the most probable tokens that hold this share.")
    ] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="How many tokens an answer has at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed and questions give the same answers.")] = None,
    load_: Annotated[Path | None, typer.Option("--load", help="Take up a conversation saved with /save.")] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    tokenizer_source: TokenizerSource = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print a JSON object for each answer: message, usage, reason.")
    ] = False,
) -> None:
    """Talk with a model. One that runs here has the calculator as a tool.

    Ctrl-C stops an answer, Ctrl-D leaves, /help shows the commands: /system, /reset, /save, /set temperature 0.7, ...

    In a pipe each line is a message and the answers are all that is printed. Commands work there too (write // before a
    message that begins with /); what they say goes to the standard error, and an error ends the chat.

    Examples:
    \b
      $ penjing chat runs/tiny-chat/chat/model
      $ penjing chat MODEL --system "Answer briefly." --temperature 0.3
      $ echo "What is 37 times 48?" | penjing chat MODEL
      $ penjing chat MODEL --json < questions.txt > answers.jsonl
      $ penjing chat openai:http://127.0.0.1:8000/v1
    """
    from penjing.commands._text import argument, standard_lines
    from penjing.data.world import calculator
    from penjing.inference import repl
    from penjing.inference.chat_model import ChatModel
    from penjing.inference.local import LocalChatModel
    from penjing.inference.remote import Endpoint, OpenAIChatModel, is_remote
    from penjing.inference.sampling import Sampling
    from penjing.inference.session import ChatSession

    options = given(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens, seed=seed)
    assistant: ChatModel
    if is_remote(model):
        sampling = Sampling.of(**options)
        assistant = OpenAIChatModel(Endpoint.of(model))
    else:
        sampling = Sampling.of(preferred(model), **options)
        network, tokenizer = load(model, device, precision, tokenizer_source)
        assistant = LocalChatModel(network, tokenizer, {"calculator": calculator}, name=Path(model).name)
    session = ChatSession(assistant, sampling, argument(system, "--system"))
    if load_ is not None:
        session.load(load_)
    repl.chat(session, standard_lines(), as_json=json)
