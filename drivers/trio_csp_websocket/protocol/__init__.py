"""The protocol, without I/O and without a role.

From the bottom:

- `constants`: the constants of the interface, and which close codes may be sent
- `frames`: what frames are made of, and what they carry
- `pieces`: bytes that arrive in pieces
- `negotiation`: agreeing on compression
- `deflate`: compressing and inflating messages
- `decoder`: bytes become messages and control frames
- `encoder`: messages and control frames become bytes
- `url`: URLs, parsed and normalised
- `response`: checks a server's answer to the opening handshake
"""
