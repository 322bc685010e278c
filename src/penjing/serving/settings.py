"""What a server is made of: which models, who may ask, what is filtered, where conversations are kept."""

from dataclasses import dataclass, field
from pathlib import Path

from penjing.inference.remote import Endpoint
from penjing.serving.limits import Limits
from penjing.serving.registry import Source


@dataclass(frozen=True)
class ServeSettings:
    """The settings of `app.create_app`. The defaults are those of a server for its own machine."""

    models: tuple[Source, ...] = ()
    """Models that this server runs; the first is the default."""
    remotes: tuple[Endpoint, ...] = ()
    """Other servers, whose models are served too."""
    most_models: int | None = None
    """How many models are in memory at once; None: all."""
    device: str = "auto"
    precision: str = "auto"
    seats: int = 32
    """How many requests an engine answers at once; more wait."""
    processes: bool = False
    """Whether each model's engine has a process of its own, and does not share Python's lock with the server."""
    calculator: bool = True
    """Whether models here may use the calculator, which those that were trained on our recipes have learned to."""
    limits: Limits = field(default_factory=Limits)
    keys: Path | None = None
    """The file of API keys; None: everybody who reaches the server may ask."""
    origins: frozenset[str] = frozenset()
    """Web pages of other hosts that may ask (CORS); none by default."""
    hosts: frozenset[str] = frozenset()
    """Names under which the server is reached, besides this machine's own."""
    secure: bool = False
    """Whether it is reached by TLS."""
    conversations: str | None = None
    """Where conversations are kept: a file, or a database's URL; None: there are none, nor a chat page that needs
    them."""
    page: bool = True
    """Whether the chat page is served."""
    runs: Path = Path("runs")
    """Where the page finds training runs."""
    safety: bool = True
    """Whether texts are filtered."""
    policy: Path | None = None
    """The filters' settings; None: the default ones."""
    moderation: Path | None = None
    """A trained classifier for the filters and for /v1/moderations."""
    log_prompts: bool = False
    """Whether the log may hold what people write."""
