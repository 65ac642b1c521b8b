"""The texts of the help of the command line."""

DESCRIPTION = """\
Connect to a WebSocket server, or be one (--listen): send what is typed or
piped in, and show what comes.

On a terminal, each line typed is sent as a text message; /help lists the
commands. Otherwise each line of standard input is sent, and after its end the
program stays connected until the server closes, --count messages have come,
or, without --count, nothing has come for a second (--wait)."""
JSON_HELP = (
    '{"type": "text", "data": "..."}, "binary" with its data in base64, "pong" with "seconds", and at the end "close" '
    'with "code", "reason" and "error"; where there is no connection, "refused" with "status", "headers" and "body", '
    'or "error", both with "error" and "retryable"; with --reconnect also "open"; "waiting" with "seconds", "attempt" '
    'and "error"; and "gap" with "seconds", "attempts", "missed", "code", "reason" and "error"; with --listen '
    '"listening" with "url", and in all others "connection", a number; "open" with "remote", "path" and "origin"'
)
EPILOG = """\
Where standard output is not a terminal, it gets one line for each message and
nothing else: the message as it is, including control characters, but with
spaces for its line breaks (--json keeps them); a binary message as hexadecimal
digits. What concerns the connection goes to standard error.
On a terminal a message begins with "< ", and its further lines with spaces;
characters that would control it, or not be seen, are shown as \\u001b.
What is typed at a prompt is kept for the next time, readable for you only, in
~/.local/state/trio-csp/websocket_history (or below $XDG_STATE_HOME, and on
Windows %%LOCALAPPDATA%%). Lines that begin with a space or look like credentials
are not, nor are those with a secret of the command line. Not every secret looks
like one: --no-history.
With --reconnect, standard error tells of each connection that is lost, and of
each attempt that fails. Lines of the input wait for a connection, and none is
sent twice, also not to the next connection. If one may be lost, that is told,
and the exit status is 1. A server that vanishes is noticed after a minute.
The server has two seconds to answer a close.
With --listen, each message that is shown begins with the number of its
connection, but for standard output that is no terminal. What is typed or piped
in goes to all who are connected, and waits until somebody is. A client that
does not read it is closed with 1013. Web pages of elsewhere are refused:
--origin lets them in. The program ends with --count, --wait, Ctrl-D, /close or
a signal; then all are told 1001.
A DURATION is written 300ms, 10s or 1m30s.
Other users of this machine may see the command line, and credentials in it.
A proxy's credentials may be in the environment instead: https_proxy.

examples:
  %(prog)s wss://echo.example.com
  %(prog)s --demo
  %(prog)s -H 'Authorization: Bearer TOKEN' wss://example.com
  echo '{"subscribe": "prices"}' |
    %(prog)s --count 10 wss://example.com | grep EUR
  %(prog)s --json --wait forever wss://example.com < /dev/null |
    jq 'select(.type == "text").data | fromjson'
  %(prog)s --reconnect --wait forever wss://example.com \\
    < /dev/null
  %(prog)s --listen 8765 --echo

exit status:
  0    closed from here, or by the server with 1000, 1001 or no code
  1    no connection, or it ended with an error, or before --count messages or
       the message for --after-first had come, or a line may be lost, or there
       was no port to listen on, or input or output failed; standard error says
       which
  2    wrong usage
  130  Ctrl-C (but 0 on a terminal, where it closes the connection); 143 after
       SIGTERM; a second signal does not wait for the server to close
"""
