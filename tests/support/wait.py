"""Waiting for conditions: the only way a suite synchronises. Never a bare sleep between a cause and its effect."""

import time

#: Seconds within which anything local must have happened, on a busy machine too.
PATIENCE = 15.0


def until(condition, what, timeout=PATIENCE):
    """Polls `condition` until it answers something true, and answers that. Fails with `what` and the last answer."""
    end = time.monotonic() + timeout
    pause = 0.002
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what}; last answer {answer!r}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)


def settled(value, expected, what, timeout=PATIENCE):
    """Polls `value()` until it equals `expected`; the failure shows both."""
    last = []

    def same():
        last[:] = [value()]
        return last[0] == expected

    try:
        until(same, what, timeout)
    except AssertionError:
        raise AssertionError(f"{what}: expected {expected!r}, last seen {last[0]!r}") from None
    return expected
