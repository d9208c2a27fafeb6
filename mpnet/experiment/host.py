"""The process in which trials are run: it reads a session's trials a line and writes a record a line.

It lives in a network namespace of its own, and what a trial breaks ends with it.
"""

import os
import sys
from contextlib import closing

import msgspec

from mpnet import namespace
from mpnet.errors import MpnetError
from mpnet.experiment.plan import Trial
from mpnet.interrupt import Interrupted, interruptible

REFUSED = 3
"""Exit status where there is no namespace to be had; the reason is on stderr."""
_SIGNAL_STATUS = 128


def main() -> None:
    """Run trials until there are no more lines, or a signal comes."""
    # Records have the descriptor to themselves: whatever else is printed goes to stderr.
    with os.fdopen(os.dup(1), "wb") as records:
        os.dup2(2, 1)
        try:
            with interruptible():
                namespace.enter()
                # Only now: a user namespace is entered by a process of one thread, and numpy starts some.
                from mpnet.experiment.runner import run  # noqa: PLC0415

                for line in sys.stdin.buffer:
                    # Closed at once where a signal comes: what the session has started is taken down.
                    with closing(run(msgspec.json.decode(line, type=list[Trial]))) as session:
                        for record in session:
                            records.write(msgspec.json.encode(record) + b"\n")
                            records.flush()
        except MpnetError as error:
            print(error, file=sys.stderr)  # noqa: T201 - the parent reads it
            sys.exit(REFUSED)
        except Interrupted as interrupted:
            sys.exit(_SIGNAL_STATUS + interrupted.number)


if __name__ == "__main__":
    main()
