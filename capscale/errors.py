"""The one exception for bad input."""


class UserError(ValueError):
    """Bad input from outside: a file, a flag, a name, a shape.

    The message names the thing, its value and the remedy. The command line prints it without a
    traceback and exits with status 2.
    """
