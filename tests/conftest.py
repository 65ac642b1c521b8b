"""What all tests share."""

from __future__ import annotations

import signal

# Where the tests run in the background of a shell, they inherit a Ctrl-C that is ignored; some are about Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
