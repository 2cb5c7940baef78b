-- Meters in Redis or Valkey: the rules of window.py, carried out where all gateways meet.
--
-- KEYS: meters; for "change" behind the receipt of the batch, if it has one.
-- ARGV: what ("take", "change" or "hold"), now in microseconds (empty: the server's clock; tests set it), holder,
--       number of a new window, then for each meter what its function below takes. All numbers are exact to 2^53.
--
-- A window is a hash: slot -> units; "t": all units; "l": the lowest slot there may be; "g": its number, drawn when it
-- began. The slots that callers see carry that number, so that what was leased before the server lost its data
-- is never given back to a window that does not know of it.
-- A meter of what is in flight is a hash: holder -> "units until_us".

local SLOTS, COUNTED, WINDOWS = 256, 258, 65536
local DAY_US = 86400000000
local SPAN_US = { minute = 60000000, day = DAY_US }
local CALENDAR_LEASE_US, HELD_US, ASK_AGAIN_US = 60000000, 3000000, 50000
local KEPT_MS, RECEIPT_MS = 60000, 3600000

local call = redis.call
local what, now, holder, window_number = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
if not now then
  local time = call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
end

local function granted(least, most, left)
  local amount = math.min(most, left)
  if amount < math.max(1, least) then
    return 0
  end
  return amount
end

local function whole(number) -- never as 1e+15
  return string.format('%.0f', number)
end

-- What a correction comes to: more than was leased in the slot does not come back, nor anything of another window.
local function correction(key, slot, number, mine, units)
  if units >= 0 then
    return units
  end
  if number ~= mine then
    return 0
  end
  return math.max(units, -tonumber(call('HGET', key, whole(slot)) or 0))
end

-- Sliding windows

-- The window without what counts no more: its units, its number, its lowest slot.
local function slid(key, slot)
  local found = call('HMGET', key, 't', 'g', 'l')
  local total, number, low = tonumber(found[1]), tonumber(found[2]), tonumber(found[3])
  local from = slot - COUNTED + 1
  if not total or slot < low or from >= low + COUNTED then -- nothing of it counts, or the clock has gone far back
    call('DEL', key)
    call('HSET', key, 't', 0, 'g', window_number, 'l', whole(from))
    return 0, tonumber(window_number), from
  end
  if from <= low then
    return total, number, low
  end
  local old, gone = {}, {}
  for each = low, from - 1 do
    old[#old + 1] = whole(each)
  end
  for index, units in ipairs(call('HMGET', key, unpack(old))) do
    if units then
      gone[#gone + 1] = old[index]
      total = total - tonumber(units)
    end
  end
  if #gone > 0 then
    call('HDEL', key, unpack(gone))
  end
  call('HSET', key, 't', whole(total), 'l', whole(from))
  return total, number, from
end

-- When `excess` units will have aged out.
local function aged_us(key, low, excess, width)
  local slots, last = {}, nil
  for each = low, low + COUNTED - 1 do
    slots[#slots + 1] = whole(each)
  end
  for index, units in ipairs(call('HMGET', key, unpack(slots))) do
    if units then
      last = low + index - 1
      excess = excess - tonumber(units)
      if excess <= 0 then
        break
      end
    end
  end
  return last and (last + COUNTED) * width or 0
end

local function take_sliding(key, span_us, limit, least, most)
  local width = span_us / SLOTS
  local slot = math.floor(now / width)
  local total, number, low = slid(key, slot)
  local amount = granted(least, most, limit - total)
  local resets
  if amount > 0 then
    call('HINCRBY', key, whole(slot), whole(amount))
    call('HINCRBY', key, 't', whole(amount))
    resets = (slot + COUNTED) * width
  else
    resets = aged_us(key, low, total + least - limit, width)
  end
  call('PEXPIRE', key, whole(COUNTED * width / 1000 + 1000))
  return amount, slot * WINDOWS + number, (slot + 2) * width - now, limit - total - amount, resets - now
end

local function change_sliding(key, span_us, slot, number, units)
  local width = span_us / SLOTS
  local _, mine, low = slid(key, math.floor(now / width))
  if slot < low or slot >= low + COUNTED then
    return
  end
  units = correction(key, slot, number, mine, units)
  if units == 0 then -- "-0" is no number to HINCRBY
    return
  end
  call('HINCRBY', key, whole(slot), whole(units))
  call('HINCRBY', key, 't', whole(units))
  call('PEXPIRE', key, whole(COUNTED * width / 1000 + 1000))
end

-- Calendar windows

-- Days from 1970 to the first of a month, and the month of such a day, both in months since year 0.
-- https://howardhinnant.github.io/date_algorithms.html
local function first_day(months)
  local year, month = math.floor(months / 12), months % 12 + 1
  if month <= 2 then
    year = year - 1
  end
  local era = math.floor(year / 400)
  local of_era = year - era * 400
  local of_year = math.floor((153 * ((month + 9) % 12) + 2) / 5)
  return era * 146097 + of_era * 365 + math.floor(of_era / 4) - math.floor(of_era / 100) + of_year - 719468
end

local function month_of(day)
  local months = 1970 * 12 + math.floor(day / 30.436875)
  if first_day(months) > day then
    return months - 1
  elseif first_day(months + 1) <= day then
    return months + 1
  end
  return months
end

local function period(span)
  local day = math.floor(now / DAY_US)
  if span == 'utc_day' then
    return day, (day + 1) * DAY_US
  end
  local month = month_of(day)
  return month, first_day(month + 1) * DAY_US
end

local function calendar_number(key, slot, rest)
  local number = call('HGET', key, 'g')
  if not number then
    number = window_number
    call('HSET', key, 'g', number)
  end
  call('HDEL', key, whole(slot - 2))
  call('PEXPIRE', key, whole(rest / 1000 + 32 * DAY_US / 1000))
  return tonumber(number)
end

local function take_calendar(key, span, limit, least, most)
  local slot, ends = period(span)
  local rest = ends - now
  local number = calendar_number(key, slot, rest)
  local used = tonumber(call('HGET', key, whole(slot)) or 0)
  local amount = granted(least, most, limit - used)
  if amount > 0 then
    call('HINCRBY', key, whole(slot), whole(amount))
  end
  return amount, slot * WINDOWS + number, math.min(rest, CALENDAR_LEASE_US), limit - used - amount, rest
end

local function change_calendar(key, span, slot, number, units)
  local current, ends = period(span)
  if slot < current - 1 then
    return
  end
  local mine = calendar_number(key, current, ends - now)
  units = correction(key, slot, number, mine, units)
  if units == 0 then -- "-0" is no number to HINCRBY
    return
  end
  call('HINCRBY', key, whole(slot), whole(units))
end

-- In flight

-- What all hold, and what the holder does.
local function in_flight(key)
  local total, mine, gone = 0, 0, {}
  local found = call('HGETALL', key)
  for index = 1, #found, 2 do
    local units, until_us = string.match(found[index + 1], '^(%d+) (%d+)$')
    if tonumber(until_us) <= now then
      gone[#gone + 1] = found[index]
    else
      total = total + tonumber(units)
      if found[index] == holder then
        mine = tonumber(units)
      end
    end
  end
  if #gone > 0 then
    call('HDEL', key, unpack(gone))
  end
  return total, mine
end

local function hold(key, units)
  if units > 0 then
    call('HSET', key, holder, whole(units) .. ' ' .. whole(now + HELD_US))
    call('PEXPIRE', key, KEPT_MS)
  else
    call('HDEL', key, holder)
  end
end

local function take_in_flight(key, limit, least, most)
  local total, mine = in_flight(key)
  local amount = granted(least, most, limit - total)
  if amount > 0 then
    hold(key, mine + amount)
    return amount, 0, -1, limit - total - amount, 0
  end
  return 0, 0, -1, limit - total, ASK_AGAIN_US
end

-- What callers ask for

-- Each meter: span, limit, least, most.
-- Answers for each: units, slot, microseconds to spend them in (-1: no end), units left, microseconds until it resets;
-- all in one string, which clients read faster than a list.
local function take()
  local answers = {}
  for index, key in ipairs(KEYS) do
    local at = 1 + index * 4
    local span, limit, least, most = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
    local answer
    if span == 'now' then
      answer = { take_in_flight(key, limit, least, most) }
    elseif SPAN_US[span] then
      answer = { take_sliding(key, SPAN_US[span], limit, least, most) }
    else
      answer = { take_calendar(key, span, limit, least, most) }
    end
    answer[4], answer[5] = math.max(0, answer[4]), math.max(0, answer[5])
    for _, number in ipairs(answer) do
      answers[#answers + 1] = whole(number)
    end
  end
  return table.concat(answers, ' ')
end

-- First the number of the batch, 0 if it has no receipt; then of each meter: span, slot, units.
local function change()
  local batch, first = tonumber(ARGV[5]), 1
  if batch > 0 then
    if batch <= tonumber(call('GET', KEYS[1]) or 0) then
      return 0
    end
    call('SET', KEYS[1], whole(batch), 'PX', RECEIPT_MS)
    first = 2
  end
  for index = first, #KEYS do
    local key, at = KEYS[index], 6 + (index - first) * 3
    local span, slot, units = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    if span == 'now' then
      local _, mine = in_flight(key)
      hold(key, mine + units)
    elseif SPAN_US[span] then
      change_sliding(key, SPAN_US[span], math.floor(slot / WINDOWS), slot % WINDOWS, units)
    else
      change_calendar(key, span, math.floor(slot / WINDOWS), slot % WINDOWS, units)
    end
  end
  return 1
end

-- Each meter: units, and 1 if it may be more because something else is on its way.
local function beat()
  for index, key in ipairs(KEYS) do
    local units = tonumber(ARGV[3 + index * 2])
    if ARGV[4 + index * 2] == '1' then
      local _, mine = in_flight(key)
      units = math.max(units, mine)
    end
    hold(key, units)
  end
  return 1
end

if what == 'take' then
  return take()
elseif what == 'change' then
  return change()
end
return beat()
