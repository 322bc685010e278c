"""What a policy's TOML file may say. `default.toml` explains each setting, and is what a file leaves out."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from penjing.errors import ConfigError, PenjingError
from penjing.serving.safety.moderator import RATES
from penjing.serving.safety.personal import TAGGED, check_kinds
from penjing.serving.safety.samples import CATEGORIES
from penjing.settings import Fraction, Settings, read_table

Action = Literal["allow", "log", "warn", "redact", "block"]
ACTIONS: tuple[Action, ...] = ("allow", "log", "warn", "redact", "block")
"""From mild to strict."""
Where = Literal["input", "output", "tool"]
"""What a user says, what the model says, what a tool or a retrieved passage brings."""
DEFAULT = Path(__file__).with_name("default.toml")


class Rule(Settings):
    """What follows from a filter's finds."""

    input: Action = "allow"
    output: Action = "allow"
    tool: Action = "allow"

    def action(self, where: Where) -> Action:
        """What follows there."""
        return {"input": self.input, "output": self.output, "tool": self.tool}[where]


class SelfHarm(Rule):
    """Messages of someone who may hurt themselves."""

    help_en: Annotated[str, Field(min_length=1)] | None = None
    help_zh: Annotated[str, Field(min_length=1)] | None = None


class Personal(Rule):
    """Personal data."""

    kinds: tuple[str, ...]
    allow: tuple[str, ...]
    presidio: bool
    tagger: str | None = None
    """The folder of a tagger, for what has no form."""

    @field_validator("kinds")
    @classmethod
    def _known(cls, kinds: tuple[str, ...]) -> tuple[str, ...]:
        try:
            check_kinds(kinds)
        except PenjingError as error:
            raise ValueError(str(error)) from None
        return kinds

    @model_validator(mode="after")
    def _can_be_found(self) -> Self:
        unfound = [kind for kind in self.kinds if kind in TAGGED]
        if unfound and self.tagger is None:
            raise ValueError(f"{unfound[0]} is found by a tagger only: name one's folder as 'tagger'")
        return self


class Injection(Rule):
    """Text that speaks to the model."""

    score: Fraction


class Words(Rule):
    """Word lists."""

    files: tuple[str, ...]
    words: tuple[str, ...]
    allow: tuple[str, ...]


class Moderation(Rule):
    """The classifier."""

    model: str | None = None
    false_positives: Annotated[float, Field(ge=RATES[0], le=1)]
    categories: dict[Literal[*tuple(CATEGORIES)], Action]  # type: ignore[valid-type]
    """Actions in the place of the rule's own, wherever that is not "allow"."""


class Audit(Settings):
    """Where decisions are written."""

    file: str | None = None
    text: bool


class PolicySettings(Settings):
    """A whole policy."""

    self_harm: SelfHarm
    personal: Personal
    keys: Rule
    hidden_text: Rule
    injection: Injection
    words: Words
    moderation: Moderation
    audit: Audit


def read_settings(path: Path | None) -> PolicySettings:
    """A policy's settings; the default ones where the file, or a part of it, is not there.

    Raises:
        ConfigError: the file is missing, not TOML, or has a key that is unknown or a value that cannot be.
    """
    table = _read(DEFAULT)
    if path is not None:
        for name, value in _read(path).items():
            if isinstance(value, dict) and isinstance(table.get(name), dict):
                table[name] = {**table[name], **value}
            else:
                table[name] = value
    return read_table(path or DEFAULT, "", table, PolicySettings)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as fault:
        raise ConfigError(f"the policy {path} is not valid TOML: {fault}") from None
    except OSError as fault:
        raise ConfigError(f"the policy {path} cannot be read: {fault.strerror}") from None
