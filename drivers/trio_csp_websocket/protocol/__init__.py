"""The protocol, without I/O and without a role.

From the bottom:

- `constants`: the constants of the interface
- `frames`: what frames are made of, and how a peer breaks the protocol
- `messages`: data messages, received and to be sent
- `close`: close frames, and which codes and reasons they may have
- `masking`: masking payloads
- `pieces`: bytes that arrive in pieces
- `negotiation`: agreeing on compression
- `deflate`: compressing and inflating messages
- `decoder`: bytes become messages and control frames
- `unmasking_decoder`: the same of masked frames
- `encoder`: messages and control frames become bytes
- `headers`: HTTP headers
- `url`: URLs, parsed and normalised
- `response`: checks a server's answer to the opening handshake
"""
