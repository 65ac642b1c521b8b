"""Go-style channels and select for Trio.

The layers, from the bottom; an import never points down this list:

- `csp.errors`: the errors, and their kinds
- `csp.security`: policies, and whether a context allows an action
- ``_arguments``: a check of arguments
- ``_duration``, ``_checkpoint``: Go's durations; how often a ready operation lets other tasks run
- ``_background``: a nursery for the tasks of a block
- ``_waiters``: parked tasks, their queues, and why no wake-up is lost
- ``_source``: what can be received from: the protocol, and the waiting all sources share
- ``_channel`` with ``_sending`` and ``_ends``: channels; what waits to send; a channel's ends for code written for Trio
- ``_select``, ``_selector``: wait for several at once, ad hoc or registered
- ``_alarm``, ``_timers``: timers that are channels
- ``_pull``, ``_adapters``: sources that fetch their values; those for what else a Trio program waits for
- ``_combinators``, ``_rates``, ``_pipeline``, ``_broadcast``: sources made of sources
- `csp.websocket`: the WebSocket client, a driver of its own
- `csp.testing`: the same driver's servers in memory, for tests
"""

from csp import errors, security
from csp._adapters import from_async_iterable, from_event, from_receive_channel, from_signals, from_stream
from csp._background import BackgroundNursery
from csp._broadcast import Broadcast, SlowPolicy, broadcast
from csp._channel import Channel, ChannelStatistics
from csp._checkpoint import OPERATIONS_PER_VISIT, visit_due
from csp._combinators import batch, merge
from csp._duration import Duration, parse_duration
from csp._ends import ReceiveEnd, SendEnd
from csp._pipeline import pipeline
from csp._pull import PullSource
from csp._rates import debounce, throttle
from csp._select import Case, SelectResult, select
from csp._selector import Selector
from csp._sending import SendCase
from csp._source import Moment, ReceiveCase, Source
from csp._timers import Ticker, Timer, TimerChannel, after, never, tick
from csp._waiters import Received
from csp.errors import ChannelClosedError

__version__ = "0.1.0"

__all__ = [
    "OPERATIONS_PER_VISIT",
    "BackgroundNursery",
    "Broadcast",
    "Case",
    "Channel",
    "ChannelClosedError",
    "ChannelStatistics",
    "Duration",
    "Moment",
    "PullSource",
    "ReceiveCase",
    "ReceiveEnd",
    "Received",
    "SelectResult",
    "Selector",
    "SendCase",
    "SendEnd",
    "SlowPolicy",
    "Source",
    "Ticker",
    "Timer",
    "TimerChannel",
    "after",
    "batch",
    "broadcast",
    "debounce",
    "errors",
    "from_async_iterable",
    "from_event",
    "from_receive_channel",
    "from_signals",
    "from_stream",
    "merge",
    "never",
    "parse_duration",
    "pipeline",
    "security",
    "select",
    "throttle",
    "tick",
    "visit_due",
]
