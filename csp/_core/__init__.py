"""Channels and select.

From the bottom:

- `arguments`: a check of arguments
- `runs`: the error where there is no Trio run
- `checkpoint`: how often an operation that is ready at once lets other tasks run
- `exceptions`: what exceptions are to others
- `causes`: what those who receive are told of the end of a source
- `background`: a nursery for the tasks of a block
- `results`: what a receive and a select give
- `case`: what stands in a select
- `queues`: queues that tasks may leave from the middle
- `waiters`: parked tasks, and why no wake-up is lost
- `source`: what can be received from, and the waiting that all sources share
- `sink`: what can be sent to
- `sending`: the case of a select that sends, and tasks that wait to send
- `ends`: a channel's two ends under Trio's channel interfaces
- `channel`: channels
- `select`: wait for several operations at once
- `selector`: the same, registered once
"""
