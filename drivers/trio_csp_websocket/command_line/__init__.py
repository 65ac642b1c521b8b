"""The command line: a client, or a server.

From the bottom:

- `lines`: lines to show, and how each stands on a screen
- `compression`: the names that ways to compress have
- `listening`: what a server is asked for
- `values`: the values of arguments
- `help_text`: the texts of the help
- `arguments`: the command line, parsed
- `streams`: standard input and output
- `saying`: what the program says about itself
- `history`: the history of what was typed
- `prompt`: a prompt, for a person at a terminal
- `link`: one connection, or one after another
- `request`: what was asked for, as far as texts must know it
- `advice`: what to try where there is no connection, or no server
- `format`: what comes and what happens, as lines
- `news`: what a server tells of its connections
- `guest_format`: that, as lines
- `refusals`: the requests that a server refuses
- `guests`: the connections of a server
- `output`: the lines that wait to be shown
- `conversation`: what happens while it is connected, at either end
- `session`: that of a client, which may wait to be connected again
- `hosting`: that of a server
- `demo`: what the server of `--demo` does
- `opening`: connecting, and listening
- `program`: signals, and the exit status
"""
