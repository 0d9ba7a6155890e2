-- The tap for OpenResty, and for nginx with its Lua module (0.10.23 or later, LuaJIT, lua-cjson).
--
-- Each worker process is a run of the tap: an epoch, its sequence numbers, a queue bounded in bytes, and one timer that sends
-- to the collector. The hooks run inside the user's request, copy, and never wait; the user does not notice whatever fails
-- in them. What is sent is defined in schemas/capture.schema.json and schemas/heartbeat.schema.json.
--
-- A request gets its sequence number in the first hook that sees it, and the number's time is `captured_at`. So no capture
-- with a higher number is of an earlier time, which is what `pending_since_ms` promises.

local cjson = require "cjson.safe"
local ffi = require "ffi"
local get_request = require("resty.core.base").get_request

local ngx, string, table, math, os, io = ngx, string, table, math, os, io
local ipairs, pairs, pcall, rawget, tonumber, tostring, type = ipairs, pairs, pcall, rawget, tonumber, tostring, type

local _M = {}

local REQUEST_HEADERS = {
  "user-agent", "host", "cf-ray", "x-request-id", "content-type", "content-encoding",
  -- These show the redactor that another method was asked for, whose operation is another one.
  "x-http-method-override", "x-http-method", "x-method-override",
  -- Which client it was, where proxies stand before this one.
  "x-forwarded-for", "forwarded",
}
-- Each proxy appends to these, so that their end can be trusted and their start is what the client made up.
local CHAINS = { ["x-forwarded-for"] = true, forwarded = true }
local RESPONSE_HEADERS = { "x-actor-*", "x-account-id", "content-type", "content-encoding", "content-length" }
local METHODS_WITHOUT_BODIES = { "GET", "HEAD", "OPTIONS", "TRACE", "CONNECT" }
-- The redactor records nothing of these media types, and some of these streams never end.
local MEDIA_NEVER_RECORDED = { "text/event-stream", "image/", "audio/", "video/", "font/" }

local DEFAULTS = {
  queue_bytes_max = 64 * 1024 * 1024,
  body_bytes_max = 256 * 1024,
  batch_pairs_max = 100,
  batch_bytes_max = 4 * 1024 * 1024,
  linger_ms = 50,
  timeout_ms = 5000,
  retry_ms_max = 300000,
  close_ms_max = 2000,
  heartbeat_ms = 5000,
  lease_ms = 30000,
}

local HEADER_VALUE_BYTES_MAX = 16384 -- a signed token with many claims is long
local HEADER_LINES_MAX = 64
local URL_CHARS_MAX = 65536
local TOKEN_CHARS_MIN = 16
local CLOCK_STEP_MS_MAX = 5000 -- what time synchronization corrects in one step
local DROPPED_RANGES_MAX = 4096 -- in memory, for each cause
local DROPPED_RANGES_SENT_MAX = 1000 -- in one heartbeat: the contract's bound
local RETRY_DELAY_S, RETRY_DELAY_S_MAX = 0.05, 5
local ASKED_WAIT_S_MAX = 60 -- meanwhile new captures fill the queue
local RESPONSE_BYTES_MAX = 4 * 1024 * 1024
local RESPONSE_HEADERS_MAX = 100
local ROUND_S = 60 -- nginx frees the memory of a timer's connections when the timer ends
local DRAIN_S_MAX = 600 -- a worker that ends waits no longer for requests before it reports its end
local CLIENT_CLOSED_REQUEST = 499
-- Responses while a token is being rotated, or a proxy is not ready yet.
local RETRIED_STATUS = { [0] = true, [401] = true, [403] = true, [408] = true, [425] = true, [429] = true }

local settings -- of `configure`, shared by all workers
local run -- of this worker, by `start`
local capture, observe_exit -- defined below

-- Sequence numbers ------------------------------------------------------------------------------------------------------

local function clock_ms()
  local now_ms = math.floor(ngx.now() * 1000 + 0.5)
  if now_ms < run.latest_ms then
    -- A small step back is not followed. A large one is, and the next heartbeat has the earlier time.
    if run.latest_ms - now_ms <= CLOCK_STEP_MS_MAX then
      return run.latest_ms
    end
    run.times_unordered = true
  end
  run.latest_ms = now_ms
  return now_ms
end

local function assign_number()
  local at_ms = clock_ms()
  local seq = run.highest + 1
  run.highest = seq
  run.pending_since_ms[seq] = at_ms
  if run.kept then
    run.kept:set(run.kept_as .. "highest", seq)
  end
  return seq, at_ms
end

local function drop_number(seq, cause)
  local at_ms = run.pending_since_ms[seq]
  if not at_ms then
    return
  end
  run.pending_since_ms[seq] = nil
  run.drops_to_report = run.drops_to_report + 1
  local ranges = run.dropped[cause]
  if not ranges then
    ranges = { by_first = {}, by_last = {}, count = 0 }
    run.dropped[cause] = ranges
  end
  local before, after = ranges.by_last[seq - 1], ranges.by_first[seq + 1]
  if not before and not after and ranges.count >= DROPPED_RANGES_MAX then
    return -- a gap without a cause
  end
  local range = { first = seq, last = seq, cause = cause, from_ms = at_ms, to_ms = at_ms }
  for _, neighbour in pairs({ before, after }) do
    range.first, range.last = math.min(range.first, neighbour.first), math.max(range.last, neighbour.last)
    range.from_ms, range.to_ms = math.min(range.from_ms, neighbour.from_ms), math.max(range.to_ms, neighbour.to_ms)
    ranges.by_first[neighbour.first], ranges.by_last[neighbour.last] = nil, nil
    ranges.count = ranges.count - 1
  end
  ranges.by_first[range.first], ranges.by_last[range.last] = range, range
  ranges.count = ranges.count + 1
end

-- Moves dropped ranges to those that heartbeats repeat until one of them is acknowledged.
local function collect_dropped()
  for _, ranges in pairs(run.dropped) do
    for first, range in pairs(ranges.by_first) do
      if #run.undelivered == DROPPED_RANGES_SENT_MAX then
        return
      end
      ranges.by_first[first], ranges.by_last[range.last] = nil, nil
      ranges.count = ranges.count - 1
      run.undelivered[#run.undelivered + 1] = range
    end
  end
end

-- Returns the lowest number pending, and a time (Unix ms) before which no capture from there on is.
local function first_pending(now_ms)
  local pending = run.pending_since_ms
  while run.lowest <= run.highest and not pending[run.lowest] do
    run.lowest = run.lowest + 1
  end
  local since_ms = pending[run.lowest] or now_ms
  if run.times_unordered then
    for _, at_ms in pairs(pending) do
      since_ms = math.min(since_ms, at_ms)
    end
  end
  return run.lowest, math.min(since_ms, now_ms)
end

-- HTTP to the collector -------------------------------------------------------------------------------------------------

local function read_response(socket)
  local line, failure = socket:receive("*l")
  local status = line and tonumber(line:match("^HTTP/1%.%d (%d%d%d)"))
  if not status then
    return nil, failure or "no HTTP"
  end
  local headers = {}
  for _ = 1, RESPONSE_HEADERS_MAX do
    line, failure = socket:receive("*l")
    if not line then
      return nil, failure
    end
    if line == "" then
      break
    end
    local name, value = line:match("^([^:]+):%s*(.-)%s*$")
    if name then
      headers[name:lower()] = value
    end
  end
  local length = tonumber(headers["content-length"] or "")
  if not length or length > RESPONSE_BYTES_MAX then
    return { status = status, headers = headers, body = "", closes = true }
  end
  local body = ""
  if length > 0 then
    body, failure = socket:receive(length)
    if not body then
      return nil, failure
    end
  end
  local closes = (headers.connection or ""):lower() == "close"
  return { status = status, headers = headers, body = body, closes = closes }
end

-- Logs changes alone: one line when the collector becomes unavailable, one when it is available again.
local function log_availability(problem)
  if problem and not run.unavailable then
    ngx.log(ngx.WARN, "the audit collector ", problem, "; audit captures wait, and are dropped when the queue is full")
  elseif run.unavailable and not problem then
    ngx.log(ngx.WARN, "the audit collector accepts captures again")
  end
  run.unavailable = problem ~= nil
end

-- Posts lines of NDJSON. Returns status (0 if the collector could not be reached), the seconds that it asks to wait, and
-- the body.
local function post(path, lines, bytes, dropped)
  local socket = ngx.socket.tcp()
  socket:settimeouts(settings.timeout_ms, settings.timeout_ms, settings.timeout_ms)
  local reply
  local connected, failure = socket:connect(settings.host, settings.port)
  if connected then
    local head = {
      "POST ", path, " HTTP/1.1\r\nHost: collector\r\nContent-Type: application/x-ndjson\r\nContent-Length: ", bytes, "\r\n",
      settings.authorization, dropped > 0 and "Auditap-Dropped: " .. dropped .. "\r\n" or "", "\r\n",
    }
    local sent
    sent, failure = socket:send({ head, lines })
    if sent then
      reply, failure = read_response(socket)
    end
    if reply and not reply.closes then
      socket:setkeepalive(30000, 1)
    else
      socket:close()
    end
  end
  if not reply then
    log_availability("cannot be reached (" .. tostring(failure) .. ")")
    return 0, 0, ""
  end
  local is_success = reply.status >= 200 and reply.status < 300
  log_availability(not is_success and "responds with status " .. reply.status or nil)
  return reply.status, tonumber(reply.headers["retry-after"] or "") or 0, reply.body
end

local function may_succeed_later(status)
  return RETRIED_STATUS[status] or status >= 500
end

-- Returns the indexes of refused lines, counted from 0.
local function refused_indexes(body)
  local indexes = {}
  local reply = cjson.decode(body)
  local refused = type(reply) == "table" and reply.refused
  for _, each in ipairs(type(refused) == "table" and refused or {}) do
    indexes[#indexes + 1] = type(each) == "table" and tonumber(each.index) or nil
  end
  return indexes
end

-- Heartbeats ------------------------------------------------------------------------------------------------------------

-- Returns a heartbeat as a line. Numbers are written by hand, because cjson gives them 14 digits alone.
local function heartbeat_line(epoch, fields)
  local dropped = {}
  for index, range in ipairs(fields.dropped) do
    dropped[index] = string.format(
      '{"first":%.0f,"last":%.0f,"cause":"%s","from_ms":%.0f,"to_ms":%.0f}',
      range.first, range.last, range.cause, range.from_ms, range.to_ms
    )
  end
  return string.format(
    '{"tap":{"id":"%s","epoch":%.0f},"beat":%.0f,"state":"%s","at_ms":%.0f,"started_ms":%.0f,"lease_ms":%.0f,'
      .. '"highest":%.0f,"pending_from":%.0f,"pending_since_ms":%.0f,"dropped":[%s]}\n',
    settings.tap_id, epoch, fields.beat, fields.state, fields.at_ms, fields.started_ms, settings.lease_ms,
    fields.highest, fields.pending_from, fields.pending_since_ms, table.concat(dropped, ",")
  )
end

local function forget_kept(prefix)
  for _, name in ipairs({ "epoch", "started_ms", "highest" }) do
    run.kept:delete(prefix .. name)
  end
end

-- Sends a heartbeat in this state, with those of crashed workers. Returns whether the collector accepted it.
local function send_heartbeat(state)
  run.beat = run.beat + 1
  run.beat_due_s = ngx.now() + settings.heartbeat_ms / 1000
  collect_dropped()
  local now_ms = clock_ms()
  local pending_from, pending_since_ms = first_pending(now_ms)
  local lines = { heartbeat_line(run.epoch, {
    beat = run.beat, state = state, at_ms = now_ms, started_ms = math.min(run.started_ms, pending_since_ms),
    highest = run.highest, pending_from = pending_from, pending_since_ms = pending_since_ms, dropped = run.undelivered,
  }) }
  for _, crashed in ipairs(run.crashed) do
    lines[#lines + 1] = heartbeat_line(crashed.epoch, {
      beat = 0, state = "killed", at_ms = now_ms, started_ms = crashed.started_ms, highest = crashed.highest,
      pending_from = crashed.highest + 1, pending_since_ms = crashed.started_ms, dropped = {},
    })
  end
  local body = table.concat(lines)
  local ranges, crashes = #run.undelivered, run.crashed
  local status, _, reply = post("/v1/heartbeats", body, #body, 0)
  if may_succeed_later(status) then
    return false
  end
  -- Refused or not, this was the last time: what a collector refuses now, it will refuse again.
  for index = ranges, 1, -1 do
    table.remove(run.undelivered, index)
  end
  for _, crashed in ipairs(crashes) do
    forget_kept(crashed.kept_as)
  end
  run.crashed = {}
  return status == 200 and #refused_indexes(reply) == 0
end

local function send_heartbeat_if_due()
  if ngx.now() >= run.beat_due_s then
    send_heartbeat("alive")
  end
end

-- Batches ---------------------------------------------------------------------------------------------------------------

-- A queue of { line, seq }: from `first` to `last`.
local function next_batch()
  local lines, seqs, bytes = {}, {}, 0
  while run.first <= run.last and #lines < settings.batch_pairs_max and bytes < settings.batch_bytes_max do
    local queued = run.queue[run.first]
    run.queue[run.first] = nil
    run.first = run.first + 1
    lines[#lines + 1], seqs[#seqs + 1] = queued[1], queued[2]
    bytes = bytes + #queued[1]
  end
  return lines, seqs, bytes
end

local function acknowledge(seqs, reply, dropped)
  run.drops_to_report = run.drops_to_report - dropped
  for _, index in ipairs(refused_indexes(reply)) do
    if seqs[index + 1] then
      drop_number(seqs[index + 1], "refused")
    end
  end
  for _, seq in ipairs(seqs) do
    run.pending_since_ms[seq] = nil
  end
end

-- Sends a batch until the collector accepts or rejects it, or the time for it is up.
local function deliver(lines, seqs, bytes)
  local give_up_s = ngx.now() + settings.retry_ms_max / 1000
  local delay_s = RETRY_DELAY_S
  while true do
    local dropped = run.drops_to_report
    local status, asked_s, reply = post("/v1/captures", lines, bytes, dropped)
    if status >= 200 and status < 300 then
      return acknowledge(seqs, reply, dropped)
    end
    -- Drawn, so that taps do not all come back at once to a collector that was away.
    local pause_s = math.min(delay_s * (0.5 + math.random()), RETRY_DELAY_S_MAX)
    local left_s = math.min(give_up_s, run.close_by_s) - ngx.now()
    if not may_succeed_later(status) or pause_s > left_s then
      for _, seq in ipairs(seqs) do
        drop_number(seq, may_succeed_later(status) and "collector_away" or "rejected")
      end
      return
    end
    local wake_s = ngx.now() + math.max(pause_s, math.min(asked_s, left_s, ASKED_WAIT_S_MAX))
    while ngx.now() < wake_s and ngx.now() < run.close_by_s do
      ngx.sleep(math.min(0.5, math.max(wake_s - ngx.now(), 0.001)))
      send_heartbeat_if_due()
      observe_exit()
    end
    delay_s = delay_s * 2
  end
end

local function send_queue()
  while run.first <= run.last and ngx.now() < run.close_by_s do
    local lines, seqs, bytes = next_batch()
    deliver(lines, seqs, bytes)
    run.bytes = run.bytes - bytes
    send_heartbeat_if_due()
  end
end

-- The timer -------------------------------------------------------------------------------------------------------------

-- Sets until when a worker that ends may still send: `close_ms_max` after the last of its requests.
function observe_exit()
  if not ngx.worker.exiting() then
    return
  end
  run.exiting_since_s = run.exiting_since_s or ngx.now()
  local drained = run.exchanges_count == 0 or ngx.now() > run.exiting_since_s + DRAIN_S_MAX
  if drained and run.close_by_s == math.huge then
    run.close_by_s = ngx.now() + settings.close_ms_max / 1000
  end
end

local function end_run()
  for seq in pairs(run.pending_since_ms) do
    run.closing[#run.closing + 1] = seq
  end
  -- In their order, so that they become one range.
  table.sort(run.closing)
  for _, seq in ipairs(run.closing) do
    drop_number(seq, "closing")
  end
  run.ended = true
  if send_heartbeat("ended") and run.kept then
    forget_kept(run.kept_as)
  end
end

local function count_failure(failure)
  run.failed = run.failed + 1
  -- Once: a failure that repeats must not fill the log.
  if run.failed == 1 then
    ngx.log(ngx.ERR, "the audit tap failed: ", failure)
  end
end

local function attempt(step, ...)
  local done, failure = pcall(step, ...)
  if not done then
    count_failure(failure)
  end
  return done
end

local function work()
  local until_s = ngx.now() + ROUND_S
  repeat
    observe_exit()
    attempt(send_heartbeat_if_due)
    attempt(send_queue)
    if run.close_by_s < math.huge and (run.first > run.last or ngx.now() >= run.close_by_s) then
      attempt(end_run)
      return
    end
    ngx.sleep(settings.linger_ms / 1000)
  until ngx.now() > until_s
  local scheduled, failure = ngx.timer.at(0, work)
  if not scheduled then
    ngx.log(ngx.ERR, "the audit tap has stopped: no timer (", failure, ")")
  end
end

-- What is copied --------------------------------------------------------------------------------------------------------

local UTF8 = [[^(?:[\x00-\x7f]|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}]]
  .. [[|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2})*+$]]

local function latin1_to_utf8(byte)
  local code = byte:byte()
  return string.char(0xC0 + math.floor(code / 64), 0x80 + code % 64)
end

-- Returns a header's value. Names of actors arrive as UTF-8, which HTTP does not name; all else is Latin-1.
local function header_text(name, value)
  if #value > HEADER_VALUE_BYTES_MAX then
    value = CHAINS[name] and value:sub(-HEADER_VALUE_BYTES_MAX) or value:sub(1, HEADER_VALUE_BYTES_MAX)
  end
  if value:find("[\128-\255]") and not ngx.re.find(value, UTF8, "jos") then
    value = value:gsub("[\128-\255]", latin1_to_utf8)
  end
  return value
end

local function copy_header(selected, name, value)
  if type(value) == "table" and CHAINS[name] and #value > HEADER_LINES_MAX then
    -- Without the lines in its middle, it would seem that others had passed the request on.
    value = table.concat(value, ", ")
  end
  if type(value) ~= "table" then
    selected[name] = header_text(name, value)
    return
  end
  local values, count = {}, #value
  for index, each in ipairs(value) do
    -- Of very many lines the first and the last ones: none must hide the value that the service takes.
    if index <= HEADER_LINES_MAX / 2 or index > count - HEADER_LINES_MAX / 2 then
      values[#values + 1] = header_text(name, each)
    end
  end
  selected[name] = values
end

-- Returns the name with `_` as `-`: services behind WSGI and CGI take either for the same header.
local function dashed(name)
  if not name:find("_", 1, true) then
    return name
  end
  return (name:gsub("_", "-"))
end

-- Returns the chosen headers as a table by name; a repeated one has a list of values. Names with `_` are copied as written.
local function select_headers(headers, selection)
  local selected = {}
  for _, name in ipairs(selection.names) do
    -- Not by index: the table's metatable also finds `x_actor` for `x-actor`.
    local value = rawget(headers, name)
    if value then
      copy_header(selected, name, value)
    end
  end
  local lines = 0
  for name, value in pairs(headers) do
    local compared = dashed(name)
    if compared ~= name and selection.has_name[compared] then
      copy_header(selected, name, value)
    end
    for _, prefix in ipairs(selection.prefixes) do
      if compared:sub(1, #prefix) == prefix and lines < HEADER_LINES_MAX then
        lines = lines + 1
        copy_header(selected, name, value)
      end
    end
  end
  return selected
end

local function first_value(value)
  return type(value) == "table" and value[1] or value
end

local function is_never_recorded(content_type)
  content_type = first_value(content_type)
  content_type = content_type and content_type:match("^%s*(.*)"):lower() or ""
  for _, prefix in ipairs(MEDIA_NEVER_RECORDED) do
    if content_type:sub(1, #prefix) == prefix then
      return true
    end
  end
  return false
end

local function percent(byte)
  return string.format("%%%02X", byte:byte())
end

-- Returns a URL that is not too long. What is cut off may ask for another method, or make another path: with the segment `.`, no
-- operation applies as it is written, and its account is still found.
local function bounded_url(text)
  if #text <= URL_CHARS_MAX then
    return text
  end
  return text:match("^[^?]*"):sub(1, URL_CHARS_MAX / 2) .. "/."
end

-- Returns the URL as received. It is always absolute, so that neither path nor Host can pass for another part of it.
local function url()
  local host = ngx.var.http_host
  if not host or not ngx.re.find(host, [[^(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$]], "jo") then
    host = "unknown.invalid"
  end
  -- nginx passes a hash and what follows it on.
  local target = (ngx.var.request_uri or "/"):gsub("[^%w%-._~!$&'()*+,/:;=@%%?%[%]]", percent)
  if target:sub(1, 1) ~= "/" then
    target = "/" .. target
  end
  return bounded_url(ngx.var.scheme .. "://" .. host .. target)
end

-- Exchanges -------------------------------------------------------------------------------------------------------------

local function new_exchange()
  local headers = ngx.req.get_headers(0)
  local method = ngx.req.get_method() or "UNKNOWN"
  local exchange = {
    method = method,
    url = url(),
    request_headers = select_headers(headers, settings.request_headers),
    copied = not settings.methods_without_bodies[method],
    chunks = {},
    copied_bytes = 0,
    truncated = false,
  }
  exchange.is_chunked = rawget(headers, "transfer-encoding") ~= nil
  exchange.request_never_recorded = is_never_recorded(rawget(headers, "content-type"))
  -- Last: once a number is assigned, the pair must be captured or dropped.
  exchange.seq, exchange.at_ms = assign_number()
  return exchange
end

local function forget_exchange(exchange)
  run.exchanges[exchange.address] = nil
  run.exchanges_count = run.exchanges_count - 1
end

-- Drops the exchange of a request that has ended without its last hook.
local function abandon(exchange)
  forget_exchange(exchange)
  if not exchange.captured then
    run.bytes = run.bytes - exchange.copied_bytes
    drop_number(exchange.seq, "failed")
    count_failure("a server or location has a log_by_lua block that does not call it")
  end
end

-- Returns what is known of the present request, from its first hook on; nil if there is nothing to capture: for a
-- subrequest, and for what nginx could not read as a request.
local function current_exchange()
  if ngx.is_subrequest or not ngx.var.request_uri then
    return nil
  end
  -- Not in ngx.ctx, which an internal redirect (error_page, try_files) empties: the request keeps its address.
  local address = tonumber(ffi.cast("uintptr_t", get_request()))
  -- A later request may get the same address, but not the same place on the same connection.
  local place = ngx.var.connection .. ":" .. ngx.var.connection_requests
  local exchange = run.exchanges[address]
  if exchange and exchange.place ~= place then
    abandon(exchange)
    exchange = nil
  end
  if not exchange then
    exchange = new_exchange()
    exchange.address, exchange.place = address, place
    run.exchanges[address] = exchange
    run.exchanges_count = run.exchanges_count + 1
  end
  return exchange
end

local function discard_copy(exchange)
  run.bytes = run.bytes - exchange.copied_bytes
  exchange.chunks, exchange.copied_bytes, exchange.truncated = {}, 0, true
end

local function observe_header()
  local exchange = current_exchange()
  if not exchange then
    return
  end
  -- nginx's own gzip comes after this hook: here header and body belong together.
  exchange.content_encoding = ngx.header["Content-Encoding"]
  exchange.never_recorded = is_never_recorded(ngx.header["Content-Type"])
  if ngx.status == 101 then
    -- From here on it is no HTTP, and may last for days.
    exchange.upgraded = true
    capture(exchange)
  end
end

local function observe_body()
  local exchange = current_exchange()
  if not exchange then
    return
  end
  exchange.body_began = true
  exchange.ended = exchange.ended or ngx.arg[2]
  if not exchange.copied or exchange.truncated or exchange.captured then
    return
  end
  local chunk = ngx.arg[1]
  if chunk == "" then
    return
  end
  local size = #chunk
  if
    exchange.never_recorded
    or exchange.copied_bytes + size > settings.body_bytes_max
    or run.bytes + size > settings.queue_bytes_max
  then
    return discard_copy(exchange)
  end
  exchange.chunks[#exchange.chunks + 1] = chunk
  exchange.copied_bytes = exchange.copied_bytes + size
  run.bytes = run.bytes + size
end

-- Returns the fields of the request's body, with a comma before them.
local function request_body_fields(exchange)
  if not exchange.copied then
    return ""
  end
  -- Once the body has been read, nginx has its true length here, declared or not.
  local length = tonumber(ngx.var.content_length or "")
  local body = ngx.req.get_body_data()
  if body and length == #body and length <= settings.body_bytes_max and not exchange.request_never_recorded then
    return ',"body_base64":"' .. ngx.encode_base64(body) .. '"'
  end
  local is_read = ngx.var.upstream_addr ~= nil or body ~= nil or ngx.req.get_body_file() ~= nil
  if is_read then
    -- In a file, too long, or sent on as it arrived (proxy_request_buffering off).
    return (length or 0) > 0 and ',"truncated":true' or ""
  end
  -- nginx answered first. HTTP/2 and 3 need no length, so there may have been a body.
  if (length or 0) > 0 or exchange.is_chunked or (not length and ngx.req.http_version() >= 2) then
    return ',"truncated":true,"not_read":true'
  end
  return ""
end

local function response_body_fields(exchange)
  if exchange.truncated then
    return ',"truncated":true'
  end
  if exchange.copied_bytes == 0 then
    return ""
  end
  return ',"body_base64":"' .. ngx.encode_base64(table.concat(exchange.chunks)) .. '"'
end

-- Returns whether the response was sent to its end.
local function is_complete(exchange)
  if exchange.upgraded then
    return true
  end
  return ngx.var.request_completion == "OK" and (exchange.ended or not exchange.body_began)
end

local function encode(exchange)
  local status = tonumber(ngx.status) or 0
  if status < 100 then
    status = CLIENT_CLOSED_REQUEST -- nothing was sent
  end
  local headers = select_headers(ngx.resp.get_headers(0), settings.response_headers)
  headers["content-encoding"] = nil
  if exchange.content_encoding then
    copy_header(headers, "content-encoding", exchange.content_encoding)
  end
  local address = ngx.var.remote_addr or ""
  local client = address:sub(1, 5) ~= "unix:" and #address <= 64 and ',"client_ip":' .. cjson.encode(address) or ""
  return table.concat({
    '{"tap":{"id":"', settings.tap_id, '","epoch":', string.format("%.0f", run.epoch), ',"seq":',
    string.format("%.0f", exchange.seq), '},"captured_at":"', os.date("!%Y-%m-%dT%H:%M:%S", exchange.at_ms / 1000),
    string.format(".%03dZ", exchange.at_ms % 1000), '","duration_ms":', string.format("%.0f", ngx.var.request_time * 1000),
    client, ',"request":{"method":', cjson.encode(exchange.method:sub(1, 64)), ',"url":', cjson.encode(exchange.url),
    ',"headers":', cjson.encode(exchange.request_headers), request_body_fields(exchange), '},"response":{"status":', status,
    ',"headers":', cjson.encode(headers), response_body_fields(exchange), ',"complete":',
    is_complete(exchange) and "true" or "false", "}}\n",
  })
end

-- Puts the pair on the queue; what does not fit is dropped, and its number accounted for.
function capture(exchange)
  if exchange.captured then
    return
  end
  exchange.captured = true
  local encoded, line = pcall(encode, exchange)
  run.bytes = run.bytes - exchange.copied_bytes
  exchange.chunks = nil
  if not encoded then
    drop_number(exchange.seq, "failed")
    error(line, 0)
  end
  if run.bytes + #line > settings.queue_bytes_max then
    drop_number(exchange.seq, "buffer_full")
    return
  end
  run.bytes = run.bytes + #line
  run.last = run.last + 1
  run.queue[run.last] = { line, exchange.seq }
  if run.ended then
    -- A request that lasted longer than the drain: its capture still goes out.
    run.ended, run.close_by_s = false, ngx.now() + settings.close_ms_max / 1000
    ngx.timer.at(0, work)
  end
end

local function observe_log()
  local exchange = current_exchange()
  if exchange then
    -- Kept until here even if it was captured before, so that no hook takes the request for a new one.
    forget_exchange(exchange)
    capture(exchange)
  end
end

-- The module's functions ------------------------------------------------------------------------------------------------

local function selection(defaults, more, name)
  local chosen = { names = {}, has_name = {}, prefixes = {} }
  for _, list in ipairs({ defaults, more }) do
    for _, header in ipairs(list) do
      if type(header) ~= "string" or not header:find("^[%w!#$%%&'+.^_`|~%-]+%*?$") then
        error("auditap: " .. name .. " must be a list of header names, or prefixes like x-tenant-*", 0)
      end
      local kind, value = "names", dashed(header:lower())
      if value:sub(-1) == "*" then
        kind, value = "prefixes", value:sub(1, -2)
      end
      table.insert(chosen[kind], value)
      chosen.has_name[value] = kind == "names" or chosen.has_name[value]
    end
  end
  return chosen
end

local function parse_collector(collector)
  if type(collector) == "string" then
    if collector:find("^unix:/.") then
      return collector, nil
    end
    local host, port = collector:match("^http://(127%.[%d.]+):(%d+)/?$")
    if not host then
      host, port = collector:match("^http://(%[::1%]):(%d+)/?$")
    end
    if host then
      return host, tonumber(port)
    end
  end
  error("auditap: collector must be unix:/path/of/socket, or http://127.0.0.1:8400 on loopback", 0)
end

-- Sets how the tap works; belongs in init_by_lua_block. Raises an error of one sentence if a setting is wrong, which keeps
-- nginx from starting.
--
-- `collector`: `unix:/path/collector.sock`, or `http://127.0.0.1:8400` with a `token`. `tap_id`: the name of this gateway
-- among the taps. `request_headers`, `response_headers`: names of headers to copy besides the usual ones; `x-tenant-*`
-- stands for all with that prefix. `kept_in`: the name of a lua_shared_dict, from which a worker reports one that crashed.
-- All others are as in DEFAULTS, and mean what they mean for the Python middlewares; `queue_bytes_max` counts for each worker.
function _M.configure(given)
  local chosen = {}
  for name, default in pairs(DEFAULTS) do
    local value = given[name] or default
    if type(value) ~= "number" or value < 1 or value % 1 ~= 0 then
      error("auditap: " .. name .. " must be a whole number above 0", 0)
    end
    chosen[name] = value
  end
  if chosen.heartbeat_ms >= chosen.lease_ms or chosen.lease_ms < 100 or chosen.lease_ms > 86400000 then
    error("auditap: lease_ms must be 100 to 86400000, and heartbeat_ms less than it", 0)
  end
  chosen.host, chosen.port = parse_collector(given.collector)
  local tap_id = given.tap_id
  if type(tap_id) ~= "string" or #tap_id > 64 or not tap_id:find("^[%w][%w_.:%-]*$") then
    error("auditap: tap_id must be 1 to 64 letters, digits and _ . : - and begin with one of the first two", 0)
  end
  chosen.tap_id = tap_id
  local token = given.token
  if token and (type(token) ~= "string" or #token < TOKEN_CHARS_MIN or token:find("[^\33-\126]")) then
    error("auditap: token must have at least " .. TOKEN_CHARS_MIN .. " characters of printable ASCII", 0)
  end
  if chosen.port and not token then
    error("auditap: token is required over TCP, where collectors refuse captures without one", 0)
  end
  chosen.authorization = token and "Authorization: Bearer " .. token .. "\r\n" or ""
  chosen.request_headers = selection(REQUEST_HEADERS, given.request_headers or {}, "request_headers")
  chosen.response_headers = selection(RESPONSE_HEADERS, given.response_headers or {}, "response_headers")
  chosen.methods_without_bodies = {}
  for _, method in ipairs(given.methods_without_bodies or METHODS_WITHOUT_BODIES) do
    chosen.methods_without_bodies[method:upper()] = true
  end
  if given.kept_in and not ngx.shared[given.kept_in] then
    error("auditap: kept_in names no lua_shared_dict", 0)
  end
  chosen.kept_in = given.kept_in
  settings = chosen
end

-- Returns a number for a run: seconds and 20 random bits. The time alone would not do: workers start at the same moment.
local function new_epoch(started_ms)
  local source = io.open("/dev/urandom", "rb")
  local first, second, third = source:read(3):byte(1, 3)
  source:close()
  local drawn = (first * 65536 + second * 256 + third) % 2 ^ 20
  math.randomseed(drawn + ngx.worker.pid())
  return math.floor(started_ms / 1000) * 2 ^ 20 + drawn
end

local function is_running(pid)
  local file = io.open("/proc/" .. pid .. "/stat", "rb")
  if file then
    file:close()
  end
  return file ~= nil
end

-- Keeps this run's highest number where it survives the worker, and finds the runs of workers that crashed.
local function open_kept()
  run.kept = settings.kept_in and ngx.shared[settings.kept_in]
  if not run.kept then
    return
  end
  run.kept_as = ngx.worker.pid() .. "."
  for _, key in ipairs(run.kept:get_keys(1000)) do
    local pid = key:match("^(%d+)%.epoch$")
    if pid and not (tonumber(pid) ~= ngx.worker.pid() and is_running(pid)) then
      local prefix = pid .. "."
      -- Added first by one of the workers that start together, which then reports it.
      local claimed = run.kept:add(prefix .. "claimed", true, 60)
      local epoch, started_ms = run.kept:get(key), run.kept:get(prefix .. "started_ms")
      if claimed and epoch and started_ms then
        table.insert(run.crashed, {
          epoch = epoch, started_ms = started_ms, highest = run.kept:get(prefix .. "highest") or 0, kept_as = prefix,
        })
      end
    end
  end
  run.kept:set(run.kept_as .. "epoch", run.epoch)
  run.kept:set(run.kept_as .. "started_ms", run.started_ms)
  run.kept:set(run.kept_as .. "highest", 0)
end

-- Begins the run of this worker; belongs in init_worker_by_lua_block.
function _M.start()
  if not settings or not ngx.worker.id() then
    return -- a cache manager, which serves no requests
  end
  local started_ms = math.floor(ngx.now() * 1000 + 0.5)
  run = {
    epoch = new_epoch(started_ms), started_ms = started_ms, latest_ms = started_ms,
    highest = 0, lowest = 1, pending_since_ms = {}, times_unordered = false,
    dropped = {}, undelivered = {}, closing = {}, drops_to_report = 0,
    queue = {}, first = 1, last = 0, bytes = 0,
    exchanges = {}, exchanges_count = 0,
    crashed = {}, beat = 0, beat_due_s = 0, close_by_s = math.huge, failed = 0,
  }
  attempt(open_kept)
  local scheduled, failure = ngx.timer.at(0, work)
  if not scheduled then
    ngx.log(ngx.ERR, "the audit tap has not started: no timer (", failure, ")")
    run = nil
  end
end

local function hook(step)
  return function()
    if run then
      attempt(step)
    end
  end
end

_M.begin = hook(current_exchange) -- rewrite_by_lua_block
_M.header_filter = hook(observe_header) -- header_filter_by_lua_block
_M.body_filter = hook(observe_body) -- body_filter_by_lua_block
_M.log = hook(observe_log) -- log_by_lua_block

return _M
