"""The command line client.

From the bottom:

- `lines`: what is shown, as lines
- `arguments`: the command line, parsed
- `streams`: standard input and output
- `history`: the history of what was typed
- `prompt`: a prompt, for a person at a terminal
- `session`: what happens while it is connected
- `program`: connecting, signals, and the exit status
"""
