"""`penjing serve MODEL...`: an OpenAI-compatible API, and the chat page."""

from pathlib import Path
from typing import Annotated

import typer

from penjing.commands._loading import Device, Precision


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Models, as NAME=PLACE or a place alone: a model folder, a .gguf file, hf:org/name, or a folder with "
            "an encoder for /v1/embeddings. The first is the default; the others are read when they are asked for.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="Another server whose models are served too: openai:http://HOST:PORT/v1, or with #MODEL one of them; "
            "its API key in OPENAI_API_KEY.",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at; one that others reach needs --keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="The port; 0 for any that is free.", min=0, max=65535)] = 8000,
    certificate: Annotated[Path | None, typer.Option("--certificate", "--tls-cert", help="For TLS: a file in PEM.")] = (
        None
    ),
    private_key: Annotated[Path | None, typer.Option("--private-key", "--tls-key", help="Its private key.")] = None,
    keys: Annotated[Path | None, typer.Option(help="The file of API keys (`penjing keys create`).")] = None,
    allow_origin: Annotated[
        list[str] | None, typer.Option(help="A web page of another host that may ask, as https://example.org.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A name under which the server is reached through a proxy.")
    ] = None,
    proxies: Annotated[str, typer.Option(help="Proxies whose word about clients is believed.")] = "127.0.0.1",
    loaded: Annotated[
        int | None, typer.Option(help="How many models are in memory at once; the longest unused goes.", min=1)
    ] = None,
    seats: Annotated[int, typer.Option(help="How many requests a model answers at once.", min=1)] = 32,
    processes: Annotated[
        bool, typer.Option(help="Whether each model has a process of its own: faster, for some more memory.")
    ] = True,
    rate: Annotated[float, typer.Option(help="Requests a minute of one user; 0: no limit.", min=0)] = 0,
    concurrent: Annotated[int, typer.Option(help="Requests of one user at once; 0: no limit.", min=0)] = 0,
    queue: Annotated[int, typer.Option(help="Requests at once, of all users; 0: no limit.", min=0)] = 256,
    timeout: Annotated[float, typer.Option(help="Seconds for a whole answer; 0: as long as it takes.", min=0)] = 600,
    conversations: Annotated[
        str | None, typer.Option(help="Where conversations are kept: a file, or postgresql://...", show_default=False)
    ] = None,
    page: Annotated[bool, typer.Option(help="Whether there are the chat page and its conversations.")] = True,
    runs: Annotated[Path, typer.Option(help="Where the page finds training runs.")] = Path("runs"),
    safety: Annotated[bool, typer.Option(help="Whether texts are filtered.")] = True,
    policy: Annotated[Path | None, typer.Option(help="What is filtered, as TOML; by default the built-in policy.")] = (
        None
    ),
    moderator: Annotated[
        Path | None, typer.Option(help="A trained moderation model, for the filters and /v1/moderations.")
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
    log_prompts: Annotated[bool, typer.Option("--log-prompts", help="Log what people write, too.")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Serve models: an API that OpenAI's clients speak, and a chat page.

    The page is at the address that is printed; the API at /v1 below it, described by /openapi.json. Only this machine
    reaches it unless --host says otherwise, which needs API keys. Ctrl-C ends it, running answers first.

    Examples:
    \b
      $ penjing serve runs/tiny-chat/chat/model
      $ penjing serve chat=runs/tiny-chat/chat/model minilm=models/all-MiniLM-L6-v2 --loaded 1
      $ penjing serve --backend openai:http://gpu:8000/v1
      $ penjing keys create laptop && penjing serve MODEL --host 0.0.0.0 --keys ~/.config/penjing/keys.json
      $ curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
          -d '{"model": "chat", "messages": [{"role": "user", "content": "What is 37 * 48?"}]}'
    """
    import asyncio

    from penjing.errors import ConfigError
    from penjing.inference.remote import Endpoint
    from penjing.serving import conversations as kept
    from penjing.serving import logs, server
    from penjing.serving.app import create_app
    from penjing.serving.keys import KeyFile, check_address
    from penjing.serving.limits import Limits
    from penjing.serving.registry import Source
    from penjing.serving.settings import ServeSettings

    if log_level not in logs.LEVELS:
        raise ConfigError(f"there is no log level '{log_level}'; known: {', '.join(logs.LEVELS)}")
    check_address(host, None if keys is None else KeyFile(keys))
    limits = Limits(rate=rate, concurrent=concurrent, queue=queue, request_seconds=timeout)
    remotes = tuple(Endpoint.of(text) for text in backend or ())
    settings = ServeSettings(
        models=tuple(Source.read(text) for text in models or ()),
        remotes=remotes,
        most_models=loaded,
        device=device,
        precision=precision,
        seats=seats,
        processes=processes,
        limits=limits,
        keys=keys,
        origins=frozenset(allow_origin or ()),
        hosts=frozenset(allow_host or ()),
        secure=certificate is not None,
        conversations=(conversations or str(kept.default_path())) if page else None,
        page=page,
        runs=runs,
        safety=safety,
        policy=policy,
        moderation=moderator,
        log_prompts=log_prompts,
    )
    logs.setup(log_level, prompts=log_prompts)
    app = create_app(settings)
    asyncio.run(app.state.backends.check(remotes))
    server.run(
        app,
        host=host,
        port=port,
        limits=limits,
        certificate=certificate,
        private_key=private_key,
        proxies=proxies,
        started=lambda url: typer.echo(f"serving {', '.join(app.state.backends.names())} at {url}"),
    )
