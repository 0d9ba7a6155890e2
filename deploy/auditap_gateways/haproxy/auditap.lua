-- Copies what passes through HAProxy, for its log: docs/gateways/haproxy.md. Nothing is held up and nothing is changed.
--
-- A line of the log has room for 65,500 bytes, and what does not fit would lose the whole line. So everything here is bounded, with
-- the bodies last. Arguments of `lua-load-per-thread` are names of further headers to copy.

local MORE_HEADERS = { ... }

local TARGET_BYTES_MAX = 8192
local BODY_BYTES_MAX = 16000
-- Of target, headers and bodies together, before base64 makes four bytes of three.
local PAIR_BYTES_MAX = 46000

local VALUE_BYTES_MAX = 1024
local CHAIN_BYTES_MAX = 4096
local NAMED_BYTES_MAX = 8192
local METHOD_BYTES_MAX = 64

local WITHOUT_BODIES = { GET = true, HEAD = true, OPTIONS = true, TRACE = true, CONNECT = true }

-- auditap records nothing of these media types, and some of these streams never end.
local NEVER_RECORDED = { "^text/event%-stream", "^image/", "^audio/", "^video/", "^font/" }

local REQUEST_HEADERS = {
  "host", "content-type", "content-encoding",
  "x-request-id", "cf-ray", "user-agent",
}
local RESPONSE_HEADERS = {
  "x-actor-id", "x-actor-email", "x-actor-type", "x-actor-context", "x-actor-token-id", "x-actor-token-name", "x-account-id",
  "content-type", "content-encoding", "content-length", "x-request-id", "cf-ray",
}
local OVERRIDES = { ["x-http-method-override"] = true, ["x-http-method"] = true, ["x-method-override"] = true }
-- Each proxy appends to these, so their end can be trusted and their start is what the client made up.
local CHAINS = { "x-forwarded-for", "forwarded" }

-- HAProxy's own converter fails where its output is longer than a buffer.
local function base64(txn, text)
  local parts = {}
  for from = 1, #text, 9000 do
    parts[#parts + 1] = txn.c:base64(text:sub(from, from + 8999))
  end
  return table.concat(parts)
end

local function values_by_name(headers)
  local found = {}
  for name, values in pairs(headers) do
    local lower = name:lower()
    local known = found[lower] or {}
    found[lower] = known
    for index = 0, #values do
      known[#known + 1] = values[index]
    end
  end
  return found
end

local function add_first_and_last(lines, name, values, bytes_max)
  if values then
    lines[#lines + 1] = name .. ": " .. values[1]:sub(1, bytes_max)
    if #values > 1 then
      lines[#lines + 1] = name .. ": " .. values[#values]:sub(1, bytes_max)
    end
  end
end

-- Adds of each override one line, if any asks for another method than the request's own: it is not known which one a service takes.
-- Some services read `_` in a name as `-`. Blanks within a value are filled, so that none is cut to what is before them.
local function add_overrides(lines, found, method)
  local added = {}
  for name, values in pairs(found) do
    local dashed = name:gsub("_", "-")
    for _, value in ipairs(OVERRIDES[dashed] and values or {}) do
      local asked = value:match("^%s*(.-)%s*$"):gsub("%s", "_")
      if not added[dashed] and asked ~= "" and asked:upper() ~= method:upper() then
        added[dashed] = true
        lines[#lines + 1] = dashed .. ": " .. asked:sub(1, METHOD_BYTES_MAX)
      end
    end
  end
end

-- Returns the header lines that are copied. A header that stands more than twice is given twice, so that it does not count as one.
-- `method`: of a request.
local function head_of(headers, names, method)
  local found, lines = values_by_name(headers), {}
  if method then
    add_overrides(lines, found, method)
  end
  for _, name in ipairs(names) do
    add_first_and_last(lines, name, found[name], VALUE_BYTES_MAX)
  end
  for _, name in ipairs(MORE_HEADERS) do
    add_first_and_last(lines, name, found[name], NAMED_BYTES_MAX)
  end
  for _, name in ipairs(CHAINS) do
    if found[name] then
      lines[#lines + 1] = name .. ": " .. table.concat(found[name], ", "):sub(-CHAIN_BYTES_MAX)
    end
  end
  return table.concat(lines, "\r\n")
end

-- Returns a target that is not too long. What is cut off may ask for another method, or make another path: with the segment `.`, no
-- operation applies as it is written, and its account is still found.
local function bounded_target(target)
  if #target <= TARGET_BYTES_MAX then
    return target
  end
  return target:match("^[^?]*"):sub(1, TARGET_BYTES_MAX) .. "/."
end

-- Takes the bytes from what the line has room for, and returns whether they fit.
local function fits(txn, bytes)
  local left = (txn:get_var("txn.auditap_left") or PAIR_BYTES_MAX) - bytes
  if left < 0 then
    return false
  end
  txn:set_var("txn.auditap_left", left)
  return true
end

local function set_head(txn, name, head)
  if not fits(txn, #head) then
    -- Then there are too many headers of the operator's own. A pair without its headers is refused.
    return
  end
  txn:set_var("txn.auditap_" .. name .. "_head", base64(txn, head .. "\r\n"))
end

core.register_action("auditap_request", { "http-req" }, function(txn)
  local target = bounded_target(txn.f:pathq())
  fits(txn, #target)
  txn:set_var("txn.auditap_target", base64(txn, target))
  set_head(txn, "request", head_of(txn.http:req_get_headers(), REQUEST_HEADERS, txn.f:method()))
end)

core.register_action("auditap_response", { "http-res" }, function(txn)
  set_head(txn, "response", head_of(txn.http:res_get_headers(), RESPONSE_HEADERS))
end)

local Tap = { id = "auditap", flags = filter.FLT_CFG_FL_HTX }
Tap.__index = Tap

function Tap:new()
  return setmetatable({ request = {}, response = {} }, Tap)
end

function Tap:start_analyze(_, channel)
  filter.register_data_filter(self, channel)
  return filter.CONTINUE
end

local function is_never_recorded(headers)
  local content_type = headers["content-type"]
  local first = content_type and content_type[0] and content_type[0]:lower() or ""
  for _, beginning in ipairs(NEVER_RECORDED) do
    if first:find(beginning) then
      return true
    end
  end
  return false
end

function Tap:http_headers(_, message)
  local copy = message:is_resp() and self.response or self.request
  if not message:is_resp() then
    self.without_bodies = WITHOUT_BODIES[message:get_stline().method] or false
  end
  copy.left_out = self.without_bodies or is_never_recorded(message:get_headers())
  return filter.CONTINUE
end

-- Called with what has arrived and was not passed on yet. Returning nothing passes all of it on.
function Tap:http_payload(_, message)
  local copy = message:is_resp() and self.response or self.request
  local arrived = message:input()
  if arrived == 0 then
    return
  end
  copy.bytes = (copy.bytes or 0) + arrived
  if copy.left_out or copy.bytes > BODY_BYTES_MAX then
    copy.parts = nil
    return
  end
  copy.parts = copy.parts or {}
  copy.parts[#copy.parts + 1] = message:body(0, arrived)
end

function Tap:http_end(txn, message)
  local name = message:is_resp() and "response" or "request"
  local copy = self[name]
  txn:set_var("txn.auditap_" .. name .. "_bytes", copy.bytes or 0)
  if copy.parts and fits(txn, copy.bytes) then
    txn:set_var("txn.auditap_" .. name .. "_body", base64(txn, table.concat(copy.parts)))
  end
  return filter.CONTINUE
end

core.register_filter("auditap", Tap, function(tap)
  return tap
end)
