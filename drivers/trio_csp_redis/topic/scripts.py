"""What the server does in one step.

A topic is a stream. Each entry has the epoch of its topic (``e``), a running number (``n``) and the data (``d``), and
its id is made of the time in milliseconds and that number: so an id alone tells which value of its epoch it was. A hash
counts the numbers, and names the epoch. It is made anew when it was lost, with another epoch: the milliseconds of the
first id, and a random part.
"""

from __future__ import annotations

from typing import Final

from trio_csp_redis.protocol.script import Script

# Arguments: the data, how many entries to keep, a random part for an epoch. Keys: the topic, its count. Returns the id.
#
# XLEN comes first, because it fails where the key holds something else, before anything is counted.
PUBLISH: Final = Script("""
local stream, count = KEYS[1], KEYS[2]
redis.call('XLEN', stream)
local time = redis.call('TIME')
local ms = time[1] * 1000 + math.floor(time[2] / 1000)

-- The clock may have gone back, or a new epoch have begun: an id must be above all before.
local function after_last()
  local info = redis.pcall('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return math.max(ms, tonumber(string.match(info[i + 1], '^%d+')) + 1)
    end
  end
  return ms
end

local epoch = redis.call('HGET', count, 'epoch')
if not epoch then
  ms = after_last()
  epoch = string.format('%.0f-%s', ms, ARGV[3])
  redis.call('HSET', count, 'epoch', epoch)
end
local n = redis.call('HINCRBY', count, 'n', 1)

local function add(id)
  return {'XADD', stream, 'MAXLEN', '~', ARGV[2], id, 'e', epoch, 'n', n, 'd', ARGV[1]}
end

local added = redis.pcall(unpack(add(string.format('%.0f-%.0f', ms, n))))
if type(added) == 'table' then
  added = redis.call(unpack(add(string.format('%.0f-%.0f', after_last(), n))))
end
return added
""")

# Arguments: an id. Keys: the topic, its count. Returns the id of the last entry there ever was; epoch and number of the
# last value, an empty epoch if there was none; the epoch of the entry with the given id, nil if there is none; and
# whether an entry is kept that is not above that id.
POSITION: Final = Script("""
local last = '0-0'
local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if not info.err then
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
elseif not string.find(info.err, 'no such key', 1, true) then
  return info
end
local found = redis.call('HMGET', KEYS[2], 'epoch', 'n')
local before = redis.call('XREVRANGE', KEYS[1], ARGV[1], '-', 'COUNT', 1)[1]
local epoch = nil
if before and before[1] == ARGV[1] then
  for i = 1, #before[2], 2 do
    if before[2][i] == 'e' then epoch = before[2][i + 1] end
  end
end
return {last, found[1] or '', tonumber(found[2] or 0), epoch or false, before and 1 or 0}
""")
