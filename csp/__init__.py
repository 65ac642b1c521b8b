"""Go-style channels and select for Trio.

The rooms, from the bottom; each lists its files, and a file imports only what these lists name earlier:

- `_home`: where public names live
- `errors`: what anything may raise, and the kinds of errors
- `_patterns`: which patterns of a policy can match what drivers ask about
- `security`: policies, and whether a context allows an action
- `_connections`: what the drivers' sources say about their connections
- `_core`: channels and select
- `_time`: timers, which are channels
- `_sources`: what else a Trio program waits for
- `_combinators`: sources made of sources

`csp.websocket`, `csp.redis` and `csp.testing` are faces of drivers, each of which is a package of its own.
"""

from csp import errors, security
from csp._combinators.batch import batch
from csp._combinators.broadcast import Broadcast, broadcast
from csp._combinators.debounce import debounce
from csp._combinators.merge import merge
from csp._combinators.pipeline import pipeline
from csp._combinators.throttle import throttle
from csp._connections import ConnectionState, Gap
from csp._core.background import BackgroundNursery
from csp._core.case import Case
from csp._core.channel import Channel, ChannelCase, ChannelStatistics, Overflow
from csp._core.checkpoint import OPERATIONS_PER_SCHEDULE_POINT, schedule_point_due
from csp._core.ends import ReceiveEnd, SendEnd
from csp._core.results import Received, SelectResult
from csp._core.select import select
from csp._core.selector import Selector
from csp._core.sending import SendCase
from csp._core.source import Moment, ReceiveCase, Source
from csp._home import publish
from csp._sources.async_iterable import from_async_iterable
from csp._sources.event import from_event
from csp._sources.latest import Latest
from csp._sources.pull import PullSource
from csp._sources.receive_channel import from_receive_channel
from csp._sources.signals import from_signals
from csp._sources.stream import from_stream
from csp._time.duration import Duration, parse_duration
from csp._time.never import NeverChannel, never
from csp._time.timer_channels import AfterChannel, TickerChannel, TimerChannel
from csp._time.timers import Ticker, Timer, after, tick
from csp.errors import ChannelBrokenError, ChannelClosedError, EndOfChannelError

__version__ = "0.1.0"

__all__ = [
    "OPERATIONS_PER_SCHEDULE_POINT",
    "BackgroundNursery",
    "Broadcast",
    "Case",
    "Channel",
    "ChannelBrokenError",
    "ChannelClosedError",
    "ChannelStatistics",
    "ConnectionState",
    "Duration",
    "EndOfChannelError",
    "Gap",
    "Latest",
    "Moment",
    "Overflow",
    "PullSource",
    "ReceiveCase",
    "ReceiveEnd",
    "Received",
    "SelectResult",
    "Selector",
    "SendCase",
    "SendEnd",
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
    "schedule_point_due",
    "security",
    "select",
    "throttle",
    "tick",
]

publish(__name__, [globals()[name] for name in __all__])
# Classes of what public functions return that are not public themselves.
publish(__name__, [AfterChannel, ChannelCase, NeverChannel, TickerChannel])
