"""The Lua scripts of pull jobs: each compares and changes several keys as one atomic step."""

from __future__ import annotations

CREATE = """
-- KEYS: the job's hash, its pull_in_flight, pulls, pulls_active, pull_key
-- ARGV: id, creation time, lifetime of pull_key in seconds (0: no pull_key), then field, value, ...
if ARGV[3] ~= '0' then
  local made = redis.call('get', KEYS[5])
  if made and redis.call('exists', (string.gsub(KEYS[1], ARGV[1], made))) == 1 then
    return {made, 0}
  end
end
local known = redis.call('get', KEYS[2])
if known and redis.call('sismember', KEYS[4], known) == 1
    and redis.call('exists', (string.gsub(KEYS[1], ARGV[1], known))) == 1 then
  if ARGV[3] ~= '0' then redis.call('set', KEYS[5], known, 'EX', ARGV[3]) end
  return {known, 0}
end
redis.call('hset', KEYS[1], unpack(ARGV, 4))
redis.call('set', KEYS[2], ARGV[1])
redis.call('zadd', KEYS[3], ARGV[2], ARGV[1])
redis.call('sadd', KEYS[4], ARGV[1])
if ARGV[3] ~= '0' then redis.call('set', KEYS[5], ARGV[1], 'EX', ARGV[3]) end
return {ARGV[1], 1}  -- the id of the job; 1 when it is new, else 0
"""

_EXPECT = """
if redis.call('exists', KEYS[1]) == 0 then return 0 end
local last = first + 2 * ARGV[first - 1]
for i = first, last - 1, 2 do
  if redis.call('hget', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then return 0 end
end
"""

CHANGE = f"""
-- KEYS: the job's hash, its lease
-- ARGV: owner of the lease (empty: do not renew it), its lifetime in seconds,
--       n, n expected pairs of field and value, then field, value, ... to write
local first = 4
{_EXPECT}
if last <= #ARGV then redis.call('hset', KEYS[1], unpack(ARGV, last)) end
if ARGV[1] ~= '' then redis.call('set', KEYS[2], ARGV[1], 'EX', ARGV[2]) end
return 1  -- 0: the job does not exist, or is not as expected
"""

END = f"""
-- KEYS: the job's hash, its pull_in_flight, pulls_active, its lease, pulls, pulls_ended
-- ARGV: id, seconds to keep the hash, ended jobs created before this time leave pulls,
--       seconds to keep pulls_ended, n, n expected pairs of field and value,
--       then field, value, ... to write
local first = 6
{_EXPECT}
redis.call('hset', KEYS[1], unpack(ARGV, last))
redis.call('expire', KEYS[1], ARGV[2])
if redis.call('get', KEYS[2]) == ARGV[1] then redis.call('del', KEYS[2]) end
redis.call('srem', KEYS[3], ARGV[1])
redis.call('del', KEYS[4])
for _, old in ipairs(redis.call('zrangebyscore', KEYS[5], '-inf', '(' .. ARGV[3])) do
  -- A job that has waited for longer than ended ones are kept stays in the list.
  if redis.call('sismember', KEYS[3], old) == 0 then redis.call('zrem', KEYS[5], old) end
end
redis.call('rpush', KEYS[6], ARGV[1])
redis.call('ltrim', KEYS[6], -1000, -1)
redis.call('expire', KEYS[6], ARGV[4])
return 1  -- 0: the job does not exist, or is not as expected
"""

REOPEN = """
-- KEYS: the job's hash, its pull_in_flight, pulls_active
-- ARGV: id, the state it must be in, then field, value, ... to write
if redis.call('hget', KEYS[1], 'state') ~= ARGV[2] then return 0 end
local other = redis.call('get', KEYS[2])
if other and redis.call('sismember', KEYS[3], other) == 1
    and redis.call('exists', (string.gsub(KEYS[1], ARGV[1], other))) == 1 then return 0 end
redis.call('hset', KEYS[1], unpack(ARGV, 3))
redis.call('persist', KEYS[1])
redis.call('set', KEYS[2], ARGV[1])
redis.call('sadd', KEYS[3], ARGV[1])
return 1  -- 0: its state changed, or another job in flight fetches the same
"""

FORGET = """
-- KEYS: the job's hash, pulls
-- ARGV: id, then the states that it may be in
local state = redis.call('hget', KEYS[1], 'state')
for i = 2, #ARGV do
  if state == ARGV[i] then
    redis.call('del', KEYS[1])
    redis.call('zrem', KEYS[2], ARGV[1])
    return 1
  end
end
return 0  -- the job does not exist, or has another state
"""

REORDER = """
-- KEYS: RQ's list of the queue
-- ARGV: the ticket, its priority, the prefix of a job's key
-- Moves the ticket before the first one of lower priority. Tickets are '<job>-<n>'.
if redis.call('lrem', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
for _, other in ipairs(redis.call('lrange', KEYS[1], 0, -1)) do
  local job = string.match(other, '^(.*)-%d+$') or other
  local priority = redis.call('hget', ARGV[3] .. job, 'priority') or '0'
  if tonumber(priority) < tonumber(ARGV[2]) then
    redis.call('linsert', KEYS[1], 'BEFORE', other, ARGV[1])
    return 1
  end
end
redis.call('rpush', KEYS[1], ARGV[1])
return 1  -- 0: the ticket is not in the queue; a worker has taken it
"""
