"""The command line client, ``python -m csp.websocket``.

From the bottom: ``_lines`` says how things are shown, ``_streams`` and ``_prompt`` show them and read what is typed,
``_session`` is what happens while it is connected, ``_arguments`` parses the command line, ``_program`` runs it all.
"""
