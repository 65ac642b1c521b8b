"""What goes over the wire, and what is written in Redis; no I/O.

- `checks`: options that several rooms have, checked
- `names`: names of queues and topics, and the keys they have in Redis
- `ids`: ids of entries of a stream
- `codec`: values to bytes and back
- `url`: where a URL leads
- `failures`: what the server and the client library report, as errors of `csp.errors`
- `script`: scripts that the server runs
"""
