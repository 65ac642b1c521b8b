"""The Redis driver of trio-csp. Import its public names from `csp.testing`.

The rooms, from the bottom; each lists its files:

- `testing`: a server for tests
"""
