"""What an application holds of a server.

- `bus`: `Bus`
"""
