"""The one kind of error meant for the person at the keyboard."""


class UserError(Exception):
    """Something a person can put right: the text says what happened, where, and what to do.

    The message is one paragraph. The command prints it without a traceback and exits with status 2.
    """
