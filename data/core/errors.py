"""The one error tree of the project. Every message is one line: what is wrong, which value, how to fix it."""


class RadprefError(Exception):
    """Base of every error a user can cause; the command line prints it on one line and exits with 2."""


class InvalidInput(RadprefError):
    """A value the user gave is not usable (HTTP 422)."""


class NotFound(RadprefError):
    """A study, file, record or command that was named does not exist (HTTP 404)."""


class Conflict(RadprefError):
    """The request contradicts what is already stored (HTTP 409)."""


class StorageFull(RadprefError):
    """The disk is full; nothing that was acknowledged is lost (HTTP 507)."""
