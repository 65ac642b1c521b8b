"""The command line client.

From the bottom:

- `lines`: lines to show, and how each stands on a screen
- `arguments`: the command line, parsed
- `streams`: standard input and output
- `history`: the history of what was typed
- `prompt`: a prompt, for a person at a terminal
- `link`: one connection, or one after another
- `request`: what was asked for, as far as texts must know it
- `advice`: what to try where there is no connection
- `format`: what comes and what happens, as lines
- `output`: the lines that wait to be shown
- `session`: what happens while it is connected, or waits to be again
- `program`: connecting, signals, and the exit status
"""
