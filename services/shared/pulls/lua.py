"""The Lua scripts behind `job_store.py`: what must be looked at and changed in one go."""

from __future__ import annotations

CREATE = """
-- KEYS: the job's hash, pull_of its order, pulls, pulls_active, pull_key
-- ARGV: id, time asked, seconds the pull_key lives (0: none given), then field, value, ...
if ARGV[3] ~= '0' then
  local made = redis.call('get', KEYS[5])
  if made and redis.call('exists', string.gsub(KEYS[1], ARGV[1], made)) == 1 then
    return {made, 0}
  end
end
local known = redis.call('get', KEYS[2])
if known and redis.call('sismember', KEYS[4], known) == 1 then
  if ARGV[3] ~= '0' then redis.call('set', KEYS[5], known, 'EX', ARGV[3]) end
  return {known, 0}
end
redis.call('hset', KEYS[1], unpack(ARGV, 4))
redis.call('set', KEYS[2], ARGV[1])
redis.call('zadd', KEYS[3], ARGV[2], ARGV[1])
redis.call('sadd', KEYS[4], ARGV[1])
if ARGV[3] ~= '0' then redis.call('set', KEYS[5], ARGV[1], 'EX', ARGV[3]) end
return {ARGV[1], 1}  -- the id of the job, 1 when it is new
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
-- ARGV: owner of the lease (empty: leave it), its seconds, n, n expected fields and values, then changes
local first = 4
{_EXPECT}
if last <= #ARGV then redis.call('hset', KEYS[1], unpack(ARGV, last)) end
if ARGV[1] ~= '' then redis.call('set', KEYS[2], ARGV[1], 'EX', ARGV[2]) end
return 1  -- 0: the job is gone, or not as expected
"""

END = f"""
-- KEYS: the job's hash, pull_of its order, pulls_active, the lease, pulls
-- ARGV: id, seconds to keep it, pulls older than this are over, n, n expected pairs, then changes
local first = 5
{_EXPECT}
redis.call('hset', KEYS[1], unpack(ARGV, last))
redis.call('expire', KEYS[1], ARGV[2])
if redis.call('get', KEYS[2]) == ARGV[1] then redis.call('del', KEYS[2]) end
redis.call('srem', KEYS[3], ARGV[1])
redis.call('del', KEYS[4])
redis.call('zremrangebyscore', KEYS[5], '-inf', '(' .. ARGV[3])
return 1  -- 0: the job is gone, or not as expected
"""

REOPEN = """
-- KEYS: the job's hash, pull_of its order, pulls_active
-- ARGV: id, the state it must be in, then changes
if redis.call('hget', KEYS[1], 'state') ~= ARGV[2] then return 0 end
local other = redis.call('get', KEYS[2])
if other and redis.call('sismember', KEYS[3], other) == 1 then return 0 end
redis.call('hset', KEYS[1], unpack(ARGV, 3))
redis.call('persist', KEYS[1])
redis.call('set', KEYS[2], ARGV[1])
redis.call('sadd', KEYS[3], ARGV[1])
return 1  -- 0: its state changed, or another job fetches the same
"""

ARRANGE = """
-- KEYS: RQ's list of the queue
-- ARGV: the ticket, its priority, prefix of a job's hash
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
return 1  -- 0: a worker has the ticket already
"""
