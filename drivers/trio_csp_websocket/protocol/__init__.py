"""The protocol: both ends of a connection, without I/O.

Only a server needs `unmasking_decoder`, `negotiation.accepted`, `request` and `answer`.

From the bottom:

- `constants`: the constants of the interface
- `frames`: what frames are made of, and how a peer breaks the protocol
- `json_text`: JSON, out of a message's data and for a message to be sent
- `messages`: data messages, received and to be sent
- `close`: close frames, and which codes and reasons they may have
- `masking`: masking payloads
- `large_frame`: a frame that is made piece by piece as it is written
- `pieces`: bytes that arrive in pieces
- `streamed`: a message whose pieces are taken as they arrive
- `negotiation`: agreeing on compression, at either end
- `deflate`: compressing and decompressing messages
- `decoder`: bytes become messages and control frames
- `unmasking_decoder`: the same for masked frames
- `shared`: a message to many peers
- `encoder`: messages and control frames become bytes, masked or not
- `frame_heads`: the heads of frames, for those who watch them
- `headers`: HTTP headers
- `authority`: where a URL or a Host header leads: scheme, host and port
- `url`: URLs, parsed and normalised
- `secrets`: what may be secret in a request
- `refusal`: what a refusal says
- `heads`: where the heads of answers end, and how large they may be
- `response`: checks a server's answer to the opening handshake
- `request`: finds and checks the request of a client
- `answer`: what a server answers: the 101, refusals and pages
"""
