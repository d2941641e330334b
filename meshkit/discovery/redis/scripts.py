"""What changes the registry in Redis: four scripts, each one atomic step on the keys of one service.

A change advances the revision by one and is published as `<epoch>:<n> <op> <instance id> <record>`, where `op` is
`put`, `release` or `expire`; the record, of a `put` only, stands last since it may hold anything.

Every script leaves its pulse. One that finds that nothing ran for half a lease's time knows that Redis was away, or
paused, or restarted with old data, and forbids sweeping for a whole one: owners that could not renew get the time to do
so. A row without a lease (somebody deleted the leases) is given one. Numbers are written with `%d`, for Lua's own way
of writing them loses digits.
"""

from __future__ import annotations

from meshkit.redis.database import Script

_PRELUDE = """
local leases, instances, revision, pulse = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local channel, ttl = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function digits(number) return string.format('%d', number) end

local function leave_pulse()
  local last, spared = string.match(redis.call('GET', pulse) or '', '^(%d+):(%d+)$')
  last, spared = tonumber(last or 0), tonumber(spared or 0)
  if math.abs(now - last) > ttl / 2 then spared = now + ttl end
  redis.call('SET', pulse, digits(now) .. ':' .. digits(spared))
  return spared
end

local function current()
  local epoch, count = string.match(redis.call('GET', revision) or '', '^(%d+):(%d+)$')
  if epoch then return epoch, tonumber(count) end
  epoch = time[1] .. string.format('%06d', tonumber(time[2]))
  redis.call('SET', revision, epoch .. ':0')
  return epoch, 0
end

local function publish(op, id, record)
  local epoch, count = current()
  local at = epoch .. ':' .. digits(count + 1)
  redis.call('SET', revision, at)
  redis.call('PUBLISH', channel, at .. ' ' .. op .. ' ' .. id .. ' ' .. record)
end

local spared = leave_pulse()
"""

REGISTER = Script(
    _PRELUDE
    + """
local id, record, first = ARGV[3], ARGV[4], ARGV[5]
if first == '1' then
  local found = redis.call('HGET', instances, id)
  if found and found ~= record then return 0 end
end
redis.call('ZADD', leases, digits(now + ttl), id)
redis.call('HSET', instances, id, record)
publish('put', id, record)
return 1
"""
)
"""Arguments: channel, TTL (ms), id, record, `1` where the id must not be taken. Returns 0 if it is."""

RENEW = Script(
    _PRELUDE
    + """
local id, digest = ARGV[3], ARGV[4]
local record = redis.call('HGET', instances, id)
if not record or redis.sha1hex(record) ~= digest then return 0 end
if not redis.call('ZSCORE', leases, id) or redis.call('EXISTS', revision) == 0 then return 0 end
redis.call('ZADD', leases, digits(now + ttl), id)
return 1
"""
)
"""Arguments: channel, TTL (ms), id, hex SHA-1 of the record. Returns 0 where the row is not as its owner left it."""

RELEASE = Script(
    _PRELUDE
    + """
local id = ARGV[3]
local gone = redis.call('ZREM', leases, id) + redis.call('HDEL', instances, id)
if gone > 0 then publish('release', id, '') end
return gone
"""
)
"""Arguments: channel, TTL (ms), id. Returns 0 where it was gone already."""

SWEEP = Script(
    _PRELUDE
    + """
local wait = spared - now
if redis.call('HLEN', instances) > redis.call('ZCARD', leases) then
  for at, id in ipairs(redis.call('HSCAN', instances, 0, 'COUNT', 100)[2]) do
    if at % 2 == 1 then redis.call('ZADD', leases, 'NX', digits(now + ttl), id) end
  end
end
if wait <= 0 then
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', digits(now), 'LIMIT', 0, 10)) do
    redis.call('ZREM', leases, id)
    redis.call('HDEL', instances, id)
    publish('expire', id, '')
  end
  local next = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2]
  wait = next and tonumber(next) - now or ttl
else
  wait = math.min(wait, math.floor(ttl / 4))
end
local epoch, count = current()
return {epoch .. ':' .. digits(count), math.max(0, math.min(wait, ttl))}
"""
)
"""Arguments: channel, TTL (ms). Returns the revision, and in how many ms to sweep again: when the next lease ends, but
soon while sweeping is forbidden, since a longer silence would be taken for another absence of Redis."""

CLOCK = Script("return redis.call('TIME')")
"""Key: any of the service's. Returns the time of the server that holds it: seconds and microseconds."""
