"""The ways to compress that the command line has names for."""

from trio_csp_websocket.protocol.constants import Compression

COMPRESSION = {
    "takeover": Compression.CONTEXT_TAKEOVER,
    "no-context": Compression.NO_CONTEXT,
}
