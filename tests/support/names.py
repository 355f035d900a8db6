"""Fresh names, so that tests sharing a broker never meet."""

import itertools
import os

_numbers = itertools.count(1)
_run = f"{os.getpid():x}"


def fresh(stem="n"):
    """A name that no other test uses; letters, digits and dashes only, so that every protocol can spell it."""
    return f"{stem}-{_run}-{next(_numbers)}"
