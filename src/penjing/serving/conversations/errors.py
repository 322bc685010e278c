"""What can go wrong with conversations, and which HTTP status says so."""

from penjing.errors import PenjingError


class ConversationError(PenjingError):
    """A request about conversations that cannot be served as it is."""

    status = 400
    """The HTTP status that says it."""


class NotFoundError(ConversationError):
    """There is no such conversation, message or preset of this user; another user's is none either."""

    status = 404


class ConflictError(ConversationError):
    """It cannot be done now: the message is still being written, or too many are."""

    status = 409


class TooManyError(ConversationError):
    """Too many replies are being written at once."""

    status = 429


class TooLargeError(ConversationError):
    """What is to be stored is larger than its limit."""

    status = 413


class StorageError(ConversationError):
    """The database failed; nothing of the request was stored."""

    status = 500


class BusyError(StorageError):
    """The database is locked by someone else, or away: the same request may succeed soon."""

    status = 503


class FullError(StorageError):
    """There is no room left on the disk."""

    status = 507
