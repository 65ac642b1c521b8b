"""The command line client.

From the bottom:

- `lines`: what is shown, as lines
- `arguments`: the command line, parsed
- `streams`: standard input and output
- `prompt`: a prompt, for a person at a terminal
- `session`: what happens while it is connected
- `program`: connecting, signals, and the exit status
"""
