-- Copies the bodies that pass through HAProxy, for its log: docs/gateways/haproxy.md. Nothing is held up and nothing is changed.

-- Two bodies in base64 and two heads have to fit into a log line of 65,500 bytes.
local BODY_BYTES_MAX = 16000

local WITHOUT_BODIES = { GET = true, HEAD = true, OPTIONS = true, TRACE = true, CONNECT = true }

-- auditap records nothing of these media types, and some of these streams never end.
local NEVER_RECORDED = { "^text/event%-stream", "^image/", "^audio/", "^video/", "^font/" }

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

function Tap:http_headers(txn, message)
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
  if copy.parts then
    txn:set_var("txn.auditap_" .. name .. "_body", txn.c:base64(table.concat(copy.parts)))
  end
  return filter.CONTINUE
end

core.register_filter("auditap", Tap, function(tap)
  return tap
end)
