"""What can go wrong because of what a user gave us: one short sentence that says what, where, and what to do.

The command line prints such an error in a line or two and exits with 2. Any other exception that reaches a
user is a bug.
"""

import difflib
from collections.abc import Iterable


class PenjingError(Exception):
    """Base of every error that a user can cause. Its text says what was wrong, where, and what to do about it."""


class ConfigError(PenjingError):
    """A configuration or recipe that cannot be built."""


class DataError(PenjingError):
    """Text, instructions or shards that are missing, empty or malformed."""


class TokenizerError(PenjingError):
    """A tokenizer that cannot be trained, read or used as asked."""


class CheckpointError(PenjingError):
    """A model folder that is missing, damaged or of another shape."""


class TrainingError(PenjingError):
    """A run that cannot start or go on (NaN in the loss, a full disk, a changed configuration)."""


class GenerationError(PenjingError):
    """A request for text that the model cannot serve."""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint for an unknown name: `; did you mean 'x'?` or the list of known names.

    >>> nearest("learning_rat", ["learning_rate", "batch"])
    "; did you mean 'learning_rate'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {', '.join(names)}" if names else ""
