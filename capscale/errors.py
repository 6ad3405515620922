"""The exception for bad input, and for what may pass by itself."""

TRY_AGAIN = 75
"""Exit status for what may pass by itself: EX_TEMPFAIL of sysexits.h, on which launch files start a worker again."""


class UserError(ValueError):
    """Bad input from outside: a file, a flag, a name, a shape.

    The message names the thing, its value and the remedy. The command line prints it without a
    traceback and exits with status 2.
    """


class Unavailable(UserError):
    """Something that may pass by itself: a process that trains with this one has died, a store does not answer.

    The command line exits with status 75 (`TRY_AGAIN`).
    """
