"""`penjing generate MODEL PROMPT`: continues a text."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penjing.commands._loading import Device, Model, Precision, TokenizerSource, given, load, load_network, preferred

if TYPE_CHECKING:
    from penjing.inference.generate import Completion
    from penjing.tokenizer import Tokenizer


def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to continue; - reads it from the standard input.")],
    max_new_tokens: Annotated[
        int | None, typer.Option(help="How many tokens at most; by default until the model ends its text.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0: always the most probable token; 1: as learned.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k most probable tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the most probable tokens that hold this share.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Draw from tokens this many times as probable as the most probable.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1: what was said becomes less likely.")
    ] = None,
    presence_penalty: Annotated[float | None, typer.Option(help="Lowers the logit of tokens already used.")] = None,
    frequency_penalty: Annotated[float | None, typer.Option(help="The same, for each time that they were.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(help=r"End before this string (\n: line break); repeatable.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    n: Annotated[int, typer.Option("-n", help="How many continuations.")] = 1,
    beams: Annotated[int | None, typer.Option(help="Search with this many beams instead of drawing.")] = None,
    length_penalty: Annotated[float, typer.Option(help="With beams: above 0 favours longer texts (-10 to 10).")] = 1.0,
    logprobs: Annotated[
        int | None, typer.Option(help="Show each token's log-probability and this many others.")
    ] = None,
    regex: Annotated[str | None, typer.Option(help="The text must match this regular expression.")] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="The text must be JSON that satisfies the schema in this file.")
    ] = None,
    lookup: Annotated[bool, typer.Option(help="Guess tokens that repeat the context: faster where it copies.")] = False,
    draft: Annotated[str | None, typer.Option(help="Guess tokens with this smaller model: faster, same text.")] = None,
    stream: Annotated[bool, typer.Option(help="Show the text as it comes.")] = True,
    device: Device = "auto",
    precision: Precision = "auto",
    tokenizer_source: TokenizerSource = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")] = False,
) -> None:
    """Continue a text. Prints the continuation only.

    Examples:
    \b
      $ penjing generate runs/shakespeare/pretrain/model "To be, or"
      $ penjing generate MODEL "Once upon a time" --temperature 0
      $ penjing generate MODEL "Once" -n 3 --top-p 0.95 --seed 1 --stop "\\n"
      $ penjing generate MODEL "Once" --beams 4 --logprobs 3 --json
      $ penjing generate MODEL "Born on " --regex "\\d{4}-\\d{2}-\\d{2}"
      $ penjing generate MODEL "As JSON: " --json-schema person.json --draft SMALLER-MODEL
    """
    from penjing.commands._text import argument, standard_input
    from penjing.errors import GenerationError
    from penjing.inference.generate import complete
    from penjing.inference.generate import stream as pieces_of
    from penjing.inference.sampling import Sampling
    from penjing.inference.text import unescaped

    text = standard_input() if prompt == "-" else argument(prompt, "the prompt")
    drawing = given(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        seed=seed,
        stop=tuple(map(unescaped, stop)) if stop else None,
    )
    if beams is not None and drawing:
        raise GenerationError(f"beam search draws nothing and looks for no strings: leave out {', '.join(drawing)}")
    sampling = Sampling.of(preferred(model), **drawing, **given(max_new_tokens=max_new_tokens, logprobs=logprobs))
    guided = given(regex=regex, json_schema=json_schema, draft=draft) | ({"lookup": True} if lookup else {})
    if beams is not None and guided:
        raise GenerationError(f"beam search cannot be combined with {', '.join(guided)}")
    if regex is not None and json_schema is not None:
        raise GenerationError("the text can match a regular expression or a JSON schema, not both: leave one out")
    if lookup and draft is not None:
        raise GenerationError("tokens are guessed by lookup or by a draft model, not both: leave one out")
    network, tokenizer = load(model, device, precision, tokenizer_source)
    how: dict[str, Any] = {
        "constraint": _constraint(network, tokenizer, regex, json_schema),
        "drafter": _drafter(lookup, draft, device, precision),
    }
    if beams is not None:
        completions = _search(network, tokenizer, text, sampling, beams, length_penalty, n)
    elif stream and n == 1 and not json and logprobs is None:
        for piece in pieces_of(network, tokenizer, text, sampling=sampling, **how):
            print(piece, end="", flush=True)
        print()
        return
    else:
        completions = complete(network, tokenizer, [text], sampling, n=n, **how)
    if json:
        import json as json_format

        found = [_as_dict(completion, tokenizer) for completion in completions]
        typer.echo(json_format.dumps({"prompt": text, "completions": found}, ensure_ascii=False))
        return
    for number, completion in enumerate(completions, 1):
        if n > 1:
            print(f"--- {number}" + (f"  (score {completion.score:.3f})" if completion.score is not None else ""))
        print(completion.text)
        if logprobs is not None:
            _print_logprobs(completion, tokenizer)


def _constraint(network: Any, tokenizer: Any, regex: str | None, json_schema: Path | None) -> Any:
    """What the text must be, if anything."""
    from penjing.errors import GenerationError
    from penjing.files import read_json
    from penjing.inference.constrained import Vocabulary, compile_regex, compile_schema

    if regex is not None:
        return compile_regex(regex, Vocabulary(tokenizer, network.config.vocab))
    if json_schema is not None:
        return compile_schema(read_json(json_schema, GenerationError), Vocabulary(tokenizer, network.config.vocab))
    return None


def _drafter(lookup: bool, draft: str | None, device: str, precision: str) -> Any:
    """Who guesses tokens, if anyone."""
    from penjing.inference.speculative import DraftModel, PromptLookup

    if draft is not None:
        return DraftModel(load_network(draft, device, precision))
    return PromptLookup() if lookup else None


def _search(
    network: Any, tokenizer: Any, text: str, sampling: Any, beams: int, length_penalty: float, n: int
) -> "list[Completion]":
    from penjing.inference.beam import BeamSearch, beam_search
    from penjing.inference.text import encode_prompt, end_ids

    search = BeamSearch(beams, length_penalty, max_new_tokens=sampling.max_new_tokens)
    ids = encode_prompt(tokenizer, text)
    return beam_search(network, [ids], search, stop_ids=end_ids(tokenizer), tokenizer=tokenizer, n=n)


def _as_dict(completion: "Completion", tokenizer: "Tokenizer") -> dict[str, Any]:
    result: dict[str, Any] = {
        "text": completion.text,
        "ids": list(completion.ids),
        "reason": completion.reason,
        "stopped_by": completion.stopped_by,
    }
    if completion.score is not None:
        result["score"] = completion.score
    if completion.logprobs is not None:
        tops = completion.top_logprobs or ((),) * len(completion.ids)

        def scored(id: int, logprob: float) -> dict[str, Any]:
            return {"id": id, "token": tokenizer.decode([id], at_start=False), "logprob": logprob}

        result["logprobs"] = [
            {**scored(id, logprob), "top": [scored(other, value) for other, value in top]}
            for id, logprob, top in zip(completion.ids, completion.logprobs, tops, strict=True)
        ]
    return result


def _print_logprobs(completion: "Completion", tokenizer: "Tokenizer") -> None:
    for entry in _as_dict(completion, tokenizer)["logprobs"]:
        others = "   ".join(f"{other['token']!r} {other['logprob']:.3f}" for other in entry["top"])
        print(f"{entry['logprob']:9.3f}  {entry['token']!r:16}  {others}".rstrip())
