"""``python -m csp.websocket``: the command line client, installed as ``csp-websocket`` too."""

import sys

from trio_csp_websocket.command_line.program import main

if __name__ == "__main__":
    sys.exit(main())
