"""What the server does in one step.

A queue is a stream with one consumer group, ``workers``. An entry is acknowledged and deleted in one step, so the
stream has just what is not done: what waits, and what is in the hands of workers, the group's pending entries. Of a
pending entry Redis keeps who has it, for how long ("idle"), and how often it was delivered. Each script that changes
one checks that it is the worker's who asks, and that it was not delivered again: XACK and XCLAIM check neither.

A value that is given back keeps its last worker, with an idle time above the lease: so every worker may claim it.
"""

from __future__ import annotations

from typing import Final

from trio_csp_redis.protocol.script import Script

GROUP: Final = b"workers"
DATA: Final = b"d"
"""The field of an entry that has the value."""

ACK: Final = b"ack"
RETRY: Final = b"retry"
RETURN: Final = b"return"
REJECT: Final = b"reject"

# Arguments: the capacity, milliseconds that keys are kept, the values. Keys: the queue; if there are keys, one for each
# value. Returns an id for each value, nil for those that there is no room for; and how many were added.
SEND: Final = Script("""
local room = tonumber(ARGV[1]) - redis.call('XLEN', KEYS[1])
local ids, added = {}, 0
for i = 3, #ARGV do
  local once = KEYS[i - 1]
  local id = once and redis.call('GET', once)
  if not id and room > 0 then
    id = redis.call('XADD', KEYS[1], '*', 'd', ARGV[i])
    room, added = room - 1, added + 1
    if once then redis.call('SET', once, id, 'PX', ARGV[2]) end
  end
  ids[#ids + 1] = id or false
end
return {ids, added}
""")

# Makes the group, if there is none. Returns 1 if it did. It looks first: a server that is out of memory makes none, and
# says so also where there is one, which workers need to make room.
JOIN: Final = Script("""
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if groups.err and not string.find(groups.err, 'no such key', 1, true) then return groups end
for _, group in ipairs(groups) do
  if group[2] == 'workers' then return 0 end
end
redis.call('XGROUP', 'CREATE', KEYS[1], 'workers', '0', 'MKSTREAM')
return 1
""")

# What the next two scripts begin with. A dead letter is the entry's own fields, and three more.
_BURY = """
local function bury(queue, dead, id, attempts, reason)
  local entry = redis.call('XRANGE', queue, id, id)[1]
  if entry then
    local fields = entry[2]
    for _, field in ipairs({'id', id, 'attempts', attempts, 'reason', reason}) do
      fields[#fields + 1] = field
    end
    local added = redis.pcall('XADD', dead, '*', unpack(fields))
    if type(added) == 'table' and added.err then return added end
  end
  redis.call('XACK', queue, 'workers', id)
  redis.call('XDEL', queue, id)
end
"""

# Arguments: the worker, the idle time of what is given back, then for each: what to do, id, attempt, reason. Keys: the
# queue, its dead letters. Returns 1 for each that was done, 0 for what is not this worker's any more, -1 for what there
# is no memory for now, and -2 for what the server refuses; of one alone, the error.
SETTLE: Final = Script(
    _BURY
    + """
local queue, dead, me = KEYS[1], KEYS[2], ARGV[1]
local results = {}
for i = 3, #ARGV, 4 do
  local what, id, attempt = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2])
  local pending = redis.call('XPENDING', queue, 'workers', id, id, 1, me)[1]
  local result = 0
  if pending and pending[4] == attempt then
    result = 1
    if what == 'ack' then
      redis.call('XACK', queue, 'workers', id)
      redis.call('XDEL', queue, id)
    elseif what == 'reject' then
      local failed = bury(queue, dead, id, attempt, ARGV[i + 3])
      local refused = failed and string.sub(failed.err, 1, 3) ~= 'OOM'
      if refused and #ARGV == 6 then return failed end
      if failed then result = refused and -2 or -1 end
    else
      local count = what == 'retry' and attempt or attempt - 1
      redis.call('XCLAIM', queue, 'workers', me, 0, id, 'IDLE', ARGV[2], 'RETRYCOUNT', count, 'JUSTID')
    end
  end
  results[#results + 1] = result
end
return results
"""
)

# Arguments: the worker, the lease in milliseconds, how many, how many of them that were delivered before, the most
# deliveries, and whose: "others" for what has run out or was given back; "again" for what was on its way to this worker
# when a connection was lost. Then the ids of what the worker knows of. Keys: the queue, its dead letters. Returns what
# was claimed, each as id, attempt, fields; how many became dead letters; and 1 if there is more that was delivered
# before.
CLAIM: Final = Script(
    _BURY
    + """
local queue, dead, me = KEYS[1], KEYS[2], ARGV[1]
local lease, room, suspects, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local whose = ARGV[6]
local known = {}
for i = 7, #ARGV do known[ARGV[i]] = true end
local pending
if whose == 'others' then
  pending = redis.call('XPENDING', queue, 'workers', 'IDLE', lease, '-', '+', room + #ARGV)
else
  pending = redis.call('XPENDING', queue, 'workers', '-', '+', room + #ARGV, me)
end
local claimed, buried, more, failed = {}, 0, 0, nil
for _, entry in ipairs(pending) do
  local id, count = entry[1], entry[4]
  if #claimed >= room then break end
  if not known[id] then
    -- What never came out of a connection that was lost was not delivered.
    local delivered = whose ~= 'again' or entry[3] >= lease
    if delivered and count >= most then
      local error = bury(queue, dead, id, count, 'it was delivered ' .. count .. ' times')
      if error then failed = error else buried = buried + 1 end
    elseif delivered and count > 0 and suspects <= 0 then
      more = 1
    else
      if delivered and count > 0 then suspects = suspects - 1 end
      if delivered then count = count + 1 end
      local found = redis.call('XCLAIM', queue, 'workers', me, 0, id, 'RETRYCOUNT', count)[1]
      if found then claimed[#claimed + 1] = {id, count, found[2]} end
    end
  end
end
-- What was claimed must come to the worker; so an error waits for the next time. That there is no memory passes: acks
-- make room, and so the others must be done.
if failed and #claimed == 0 and string.sub(failed.err, 1, 3) ~= 'OOM' then return failed end
return {claimed, buried, more}
"""
)

# Arguments: the worker, the lease in milliseconds. Gives back what a worker of this name had before it was started.
RELEASE: Final = Script("""
for _, entry in ipairs(redis.call('XPENDING', KEYS[1], 'workers', '-', '+', 100000, ARGV[1])) do
  local idle = math.max(entry[3], ARGV[2] + 1)
  redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, entry[1], 'IDLE', idle, 'RETRYCOUNT', entry[4], 'JUSTID')
end
return 1
""")

# Arguments: the worker, then for each id and attempt. Returns 1 for each whose lease begins again, 0 for what is not
# this worker's any more.
RENEW: Final = Script("""
local results = {}
for i = 2, #ARGV, 2 do
  local id = ARGV[i]
  local pending = redis.call('XPENDING', KEYS[1], 'workers', id, id, 1, ARGV[1])[1]
  local own = pending ~= nil and pending[4] == tonumber(ARGV[i + 1])
  if own then redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, id, 'JUSTID') end
  results[#results + 1] = own and 1 or 0
end
return results
""")

# Arguments: the worker, the lease in milliseconds, then the ids of what is in hand. Gives everything else back that
# this worker has, without counting it as a delivery; deletes the worker if there is nothing. Returns how many were
# given back.
LEAVE: Final = Script("""
local queue, me, lease = KEYS[1], ARGV[1], tonumber(ARGV[2])
local kept = {}
for i = 3, #ARGV do kept[ARGV[i]] = true end
local pending = redis.call('XPENDING', queue, 'workers', '-', '+', 100000, me)
local returned = 0
for _, entry in ipairs(pending) do
  if not kept[entry[1]] and entry[3] < lease then
    redis.call('XCLAIM', queue, 'workers', me, 0, entry[1], 'IDLE', lease + 1, 'RETRYCOUNT', entry[4] - 1, 'JUSTID')
    returned = returned + 1
  end
end
if #pending == 0 then redis.call('XGROUP', 'DELCONSUMER', queue, 'workers', me) end
return returned
""")

# Arguments: the worker, and for how many milliseconds. Deletes other workers that have nothing, and were not heard of
# for that long.
TIDY: Final = Script("""
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], 'workers')
if consumers.err then
  -- Without the queue or its group there are none.
  if string.find(consumers.err, 'no such key') or string.find(consumers.err, 'NOGROUP') then return 0 end
  return consumers
end
local deleted = 0
for _, fields in ipairs(consumers) do
  local consumer = {}
  for i = 1, #fields, 2 do consumer[fields[i]] = fields[i + 1] end
  if consumer.name ~= ARGV[1] and consumer.pending == 0 and consumer.idle > tonumber(ARGV[2]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', consumer.name)
    deleted = deleted + 1
  end
end
return deleted
""")

# Keys: the queue, its dead letters. Returns how many there are, how many of them are in hands, how many dead letters
# there are, and for how many milliseconds the oldest has been there.
BACKLOG: Final = Script("""
local depth = redis.call('XLEN', KEYS[1])
local pending, age = 0, 0
if depth > 0 then
  local found = redis.pcall('XPENDING', KEYS[1], 'workers')
  if not found.err then
    pending = found[1]
  elseif not string.find(found.err, 'NOGROUP', 1, true) then
    return found
  end
  local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  local time = redis.call('TIME')
  age = math.max(0, time[1] * 1000 + math.floor(time[2] / 1000) - tonumber(string.match(first[1], '^%d+')))
end
return {depth, pending, redis.call('XLEN', KEYS[2]), age}
""")
