"""What csp costs, next to what one would use without it; see README.md.

The rooms and the programs, from the bottom; each room lists its files:

- `meters`: what measures
- `peers`: what csp is compared with, and what the clients talk to
- `topics`: what is measured
- `design`: what the design asks of the costs
- `counts`: the guard, `python -m benchmarks.counts`
- `plots`: the plots of a run, `python -m benchmarks.plots`
- `__main__`: the run, `python -m benchmarks`
"""
