"""The one exception that a user is meant to read."""


class ExtraError(Exception):
    """Bad input or an impossible request, with the place and the remedy in the message.

    The command line prints it without a traceback and exits with status 2. Anything else that
    escapes is a bug of ours and keeps its traceback.
    """
