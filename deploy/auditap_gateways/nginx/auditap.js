// The tap for nginx with njs, tested with njs 0.9 and its own engine.
//
// A request is captured when nginx logs it: that is when it gets its sequence number and its `captured_at`, so numbers rise with
// time, and a stream that lasts for hours holds nothing up. The capture goes into a queue in shared memory, whose size is its
// bound. One periodic handler, of one worker, sends it. So the tap has one run for all workers, which outlives reloads and
// the crash of a worker. Nothing here waits inside the user's request, and whatever fails, the user does not notice.
//
// What is sent is defined in schemas/capture.schema.json and schemas/heartbeat.schema.json.
//
// Shared dictionaries:
//   auditap_queue    sequence number → time (13 digits, Unix ms) and capture, without its tap; FAILED if there is none
//   auditap_numbers  `highest`: the last number assigned; `sent`: up to here all were acknowledged or dropped; and others
//   auditap_state    `dropped`: ranges that no heartbeat has delivered yet, as JSON

const REQUEST_HEADERS = [
    'user-agent', 'host', 'cf-ray', 'x-request-id', 'content-type', 'content-encoding',
    // These show the redactor that another method was asked for, whose operation is another one.
    'x-http-method-override', 'x-http-method', 'x-method-override',
    // Which client it was, where proxies stand before this one.
    'x-forwarded-for', 'forwarded',
];
// Each proxy appends to these, so that their end can be trusted and their start is what the client made up.
const CHAINS = ['x-forwarded-for', 'forwarded'];
const RESPONSE_HEADERS = ['x-actor-*', 'x-account-id', 'content-type', 'content-encoding', 'content-length'];
const METHODS_WITHOUT_BODIES = ['GET', 'HEAD', 'OPTIONS', 'TRACE', 'CONNECT'];
// The redactor records nothing of these media types, and some of these streams never end.
const MEDIA_NEVER_RECORDED = /^\s*(?:text\/event-stream|image\/|audio\/|video\/|font\/)/i;

const BODY_BYTES_MAX = 256 * 1024;
const BATCH_PAIRS_MAX = 100;
const BATCH_CHARS_MAX = 1024 * 1024;
// nginx ends a periodic handler that still runs when the next one is due (`interval=6s`), and frees the memory of its own
// engine only when the handler ends: so a run ends by itself before, and sends no more than so much.
const RUN_MS_MAX = 5500;
const RUN_CHARS_MAX = 64 * 1024 * 1024;
const LINGER_MS = 50;
const TIMEOUT_MS = 5000;  // also js_fetch_timeout
const OWNER_MS_MAX = 8000;
const RETRY_MS_MAX = 300000;
const RETRY_DELAY_MS = 50, RETRY_DELAY_MS_MAX = 5000;
const ASKED_WAIT_MS_MAX = 60000;
const HEARTBEAT_MS = 5000;
const LEASE_MS = 30000;
const SETTLE_MS = 1000;  // between getting a number and putting the capture, far more than it takes
const DROPPED_RANGES_MAX = 1000;  // the contract's bound for one heartbeat
const HEADER_VALUE_CHARS_MAX = 16384;  // a signed token with many claims is long
const HEADER_LINES_MAX = 64;
const URL_CHARS_MAX = 65536;
const TIME_DIGITS = 13;
const CLIENT_CLOSED_REQUEST = 499;
const FAILED = '-';
const HOST = /^(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$/;
const TAP_ID = /^[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}$/;
const COLLECTOR = /^(?:unix:\/.+|http:\/\/(?:127\.[0-9.]+|\[::1\]):[0-9]{1,5})$/;

// What is copied ------------------------------------------------------------------------------------------------------------

function namesWith(names, more) {
    return more ? names.concat(more.map((name) => dashed(name.toLowerCase()))) : names;
}

// Services behind WSGI and CGI take a header with `_` in its name for the one with `-`.
function dashed(name) {
    return name.indexOf('_') < 0 ? name : name.replace(/_/g, '-');
}

// `name` is compared with `_` read as `-`.
function chooses(names, name) {
    for (let i = 0; i < names.length; i++) {
        const chosen = names[i];
        if (chosen === name || (chosen.endsWith('*') && name.startsWith(chosen.slice(0, -1)))) {
            return true;
        }
    }
    return false;
}

function cutValue(value, isChain) {
    return isChain ? value.slice(-HEADER_VALUE_CHARS_MAX) : value.slice(0, HEADER_VALUE_CHARS_MAX);
}

// Returns the value of a variable that is not UTF-8, which njs has no text for. Then it is Latin-1. Joined at the end, because njs
// keeps the text of each step until the request ends.
function latin1(bytes) {
    const chars = [];
    for (let i = 0; i < bytes.length; i++) {
        chars.push(String.fromCharCode(bytes[i]));
    }
    return chars.join('');
}

// Returns the chosen headers by name; a repeated one has a list of values. `variables`: how variables with their bytes begin.
function selectHeaders(r, pairs, names, variables) {
    const selected = {};
    let lines = 0;
    for (let i = 0; i < pairs.length; i++) {
        const name = pairs[i][0].toLowerCase();
        if (!chooses(names, dashed(name))) {
            continue;
        }
        const isChain = CHAINS.indexOf(name) >= 0;
        let value = cutValue(pairs[i][1], isChain);
        if (value.indexOf('\ufffd') >= 0) {
            value = cutValue(latin1(r.rawVariables[variables + name.replace(/-/g, '_')]), isChain);
        }
        const before = selected[name];
        if (before === undefined) {
            selected[name] = value;
        } else if (isChain) {
            selected[name] = cutValue(before + ', ' + value, isChain);
        } else if (++lines > HEADER_LINES_MAX && typeof before !== 'string') {
            // Of very many lines the last one stays: none must hide the value that the service takes.
            before[before.length - 1] = value;
        } else if (typeof before === 'string') {
            selected[name] = [before, value];
        } else {
            before.push(value);
        }
    }
    return selected;
}

function percentEncoded(bytes) {
    const parts = [];
    for (let i = 0; i < bytes.length; i++) {
        const byte = bytes[i];
        const isPlain = byte > 0x20 && byte < 0x7f && '"#<>\\^`{|}'.indexOf(String.fromCharCode(byte)) < 0;
        parts.push(isPlain ? String.fromCharCode(byte) : '%' + (byte < 16 ? '0' : '') + byte.toString(16).toUpperCase());
    }
    return parts.join('');
}

// Returns a URL that is not too long. What is cut off may ask for another method, or make another path: with the segment `.`, no
// operation applies as it is written, and its account is still found.
function boundedUrl(url) {
    return url.length <= URL_CHARS_MAX ? url : url.split('?', 1)[0].slice(0, URL_CHARS_MAX / 2) + '/.';
}

// Returns the URL as received. It is always absolute, so that neither path nor Host can pass for another part of it.
function requestUrl(r) {
    let target = r.variables.request_uri;
    if (!/^[!$-;=?-Z\[\]_a-z~]*$/.test(target)) {
        // nginx passes a hash and what follows it on.
        target = percentEncoded(r.rawVariables.request_uri);
    }
    const host = r.variables.http_host;
    return boundedUrl(`${r.variables.scheme}://${host && HOST.test(host) ? host : 'unknown.invalid'}`
        + (target.startsWith('/') ? target : '/' + target));
}

// Returns the method as received: error_page turns that of the request into GET.
function requestMethod(r) {
    const line = r.variables.request || '';
    return line.slice(0, Math.max(line.indexOf(' '), 0)) || r.method;
}

function hasBodiesCopied(method) {
    return METHODS_WITHOUT_BODIES.indexOf(method) < 0;
}

// Adds the request's body to `request`, or that there is more than was copied.
function addRequestBody(r, request, isCopied) {
    if (!isCopied) {
        return;
    }
    // Once the body has been read, nginx has its true length here, declared or not.
    const length = r.variables.content_length === undefined ? -1 : Number(r.variables.content_length);
    const isInFile = Boolean(r.variables.request_body_file);
    const body = isInFile || length > BODY_BYTES_MAX ? undefined : r.requestBuffer;
    const isRecorded = !MEDIA_NEVER_RECORDED.test(request.headers['content-type'] || '');
    if (body && body.length === length && length > 0 && isRecorded) {
        request.body_base64 = body.toString('base64');
    } else if (body || isInFile || r.variables.upstream_addr) {
        // In a file, too long, or sent on as it arrived (proxy_request_buffering off).
        request.truncated = length > 0;
    } else if (length > 0 || r.headersIn['Transfer-Encoding'] || (length < 0 && r.httpVersion >= '2')) {
        // nginx answered first. HTTP/2 and 3 need no length, so there may have been a body.
        request.truncated = request.not_read = true;
    }
}

// Adds the response's body to `response`, or that there is more than was copied.
function addResponseBody(r, response, isCopied) {
    if (!isCopied) {
        return;
    }
    if (r.auditap === undefined) {
        // A location without the filters, or a protocol that is no HTTP any more.
        response.truncated = Number(r.variables.body_bytes_sent) > 0;
    } else if (r.auditap.truncated) {
        response.truncated = true;
    } else if (r.auditap.bytes > 0) {
        response.body_base64 = Buffer.concat(r.auditap.chunks).toString('base64');
    }
}

function isComplete(r) {
    return r.variables.request_completion === 'OK' && (r.auditap === undefined || r.auditap.ended || !r.auditap.bodyBegan);
}

// Returns the capture without its beginning: the sender puts the tap before it.
function encode(r, seq, atMs) {
    const settings = auditap_settings;
    const method = requestMethod(r);
    const isCopied = hasBodiesCopied(method);
    const request = {
        method: method.slice(0, 64),
        url: requestUrl(r),
        headers: selectHeaders(r, r.rawHeadersIn, namesWith(REQUEST_HEADERS, settings.request_headers), 'http_'),
    };
    // The status that was sent: once the client has left, nginx logs another one.
    const status = r.auditap ? r.auditap.status : Number(r.variables.status);
    const headersOut = r.rawHeadersOut.concat([['content-type', r.headersOut['Content-Type'] || '']]);
    const response = {
        status: status >= 100 ? status : CLIENT_CLOSED_REQUEST,
        headers: selectHeaders(r, headersOut, namesWith(RESPONSE_HEADERS, settings.response_headers), 'sent_http_'),
        complete: isComplete(r),
    };
    const length = r.headersOut['Content-Length'];
    if (length) {
        // A number of nginx' own, and no header of the list.
        response.headers['content-length'] = length;
    }
    if (r.auditap) {
        // nginx's own gzip comes after the filters: this one belongs to the body that they saw.
        delete response.headers['content-encoding'];
        if (r.auditap.encoding) {
            response.headers['content-encoding'] = r.auditap.encoding;
        }
    }
    addRequestBody(r, request, isCopied);
    addResponseBody(r, response, isCopied);
    const rest = {
        captured_at: new Date(atMs).toISOString(),
        duration_ms: Math.round(Number(r.variables.request_time) * 1000),
        request: request,
        response: response,
    };
    if (!r.remoteAddress.startsWith('unix:')) {
        rest.client_ip = r.remoteAddress;
    }
    return `,"seq":${seq}},${JSON.stringify(rest).slice(1)}\n`;
}

// The hooks -----------------------------------------------------------------------------------------------------------------

// For js_header_filter.
function header_filter(r) {
    try {
        const isCopied = hasBodiesCopied(requestMethod(r));
        const isRecorded = !MEDIA_NEVER_RECORDED.test(r.headersOut['Content-Type'] || '');
        r.auditap = {
            status: r.status,
            encoding: r.headersOut['Content-Encoding'],
            isCopied: isCopied && isRecorded,
            truncated: false, ended: false, bodyBegan: false, bytes: 0, chunks: [],
        };
    } catch (e) {
        failed(e);
    }
}

function copyChunk(copy, data, flags) {
    copy.bodyBegan = true;
    copy.ended = flags.last;
    if (data.length === 0 || copy.truncated) {
        return;
    }
    if (copy.isCopied && copy.bytes + data.length <= BODY_BYTES_MAX) {
        // Copied, because nginx uses the memory again.
        copy.chunks.push(Buffer.from(data));
        copy.bytes += data.length;
    } else {
        copy.chunks = [];
        copy.truncated = true;
    }
}

// For js_body_filter, with buffer_type=buffer.
function body_filter(r, data, flags) {
    try {
        if (r.auditap) {
            copyChunk(r.auditap, data, flags);
        }
    } catch (e) {
        r.auditap = undefined;
        failed(e);
    }
    // Without flush, njs holds a stream back until it ends.
    r.sendBuffer(data, { last: flags.last, flush: true });
}

// For js_set: captures the request, and returns an empty string, so that `access_log … if=` logs nothing.
function capture(r) {
    try {
        if (!r.variables.request_uri) {
            return '';  // nginx could not read it as a request
        }
        const seq = ngx.shared.auditap_numbers.incr('highest', 1, 0);
        // After the number, so that no higher one is of an earlier time.
        const atMs = Date.now();
        let entry = FAILED;
        try {
            entry = encode(r, seq, atMs);
        } catch (e) {
            failed(e);
        }
        // Throws if the queue is full. The number is then missing, and the sender reports it.
        ngx.shared.auditap_queue.set(String(seq), atMs + entry);
    } catch (e) {
        if (e.name !== 'SharedMemoryError') {
            failed(e);
        }
    }
    return '';
}

function failed(error) {
    try {
        // Once: a failure that repeats must not fill the log.
        if (ngx.shared.auditap_numbers.incr('failures', 1, 0) === 1) {
            ngx.log(ngx.ERR, `the audit tap failed: ${error.name}`);
        }
    } catch (e) {
        // The user must not notice.
    }
}

// The sender ----------------------------------------------------------------------------------------------------------------

function number(name) {
    return ngx.shared.auditap_numbers.get(name) || 0;
}

function setNumber(name, value) {
    ngx.shared.auditap_numbers.set(name, value);
}

// Returns what is wrong with the settings, in one sentence; '' if nothing is.
function settingsMistake() {
    const settings = auditap_settings;
    if (!COLLECTOR.test(settings.collector || '')) {
        return 'collector must be unix:/path/of/socket, or http://127.0.0.1:8400 on loopback';
    }
    if (!TAP_ID.test(settings.tap_id || '')) {
        return 'tap_id must be 1 to 64 letters, digits and _ . : - and begin with one of the first two';
    }
    if (!settings.collector.startsWith('unix:') && !/^[!-~]{16,}$/.test(settings.token || '')) {
        return 'token must have at least 16 characters of printable ASCII, and is required over TCP';
    }
    return '';
}

// Begins the run if none has begun: its epoch is seconds and 20 random bits, below 2**53.
function beginRun() {
    const nowMs = Date.now();
    const drawn = new Uint32Array(1);
    crypto.getRandomValues(drawn);
    if (ngx.shared.auditap_numbers.add('epoch', Math.floor(nowMs / 1000) * 1048576 + drawn[0] % 1048576)) {
        setNumber('started_ms', nowMs);
    }
}

// Returns the ranges that no heartbeat has delivered yet.
function droppedRanges() {
    return JSON.parse(ngx.shared.auditap_state.get('dropped') || '[]');
}

function drop(first, last, cause, fromMs, toMs) {
    const ranges = droppedRanges();
    const before = ranges[ranges.length - 1];
    ngx.shared.auditap_numbers.incr('drops_to_report', last - first + 1, 0);
    if (before && before.last === first - 1 && before.cause === cause) {
        before.last = last;
        before.to_ms = Math.max(before.to_ms, toMs);
    } else if (ranges.length < DROPPED_RANGES_MAX) {
        ranges.push({ first: first, last: last, cause: cause, from_ms: fromMs, to_ms: toMs });
    } else {
        return;  // a gap without a cause
    }
    ngx.shared.auditap_state.set('dropped', JSON.stringify(ranges));
}

// Posts lines of NDJSON. Returns { status, waitMs, text }; the status is 0 if the collector could not be reached.
async function post(path, body, dropped) {
    const settings = auditap_settings;
    const headers = { 'Content-Type': 'application/x-ndjson' };
    if (settings.token) {
        headers.Authorization = `Bearer ${settings.token}`;
    }
    if (dropped > 0) {
        headers['Auditap-Dropped'] = String(dropped);
    }
    const isUnix = settings.collector.startsWith('unix:');
    const origin = isUnix ? `http://${settings.collector}:` : settings.collector;
    let answer;
    setNumber('posting', 1);
    try {
        const reply = await ngx.fetch(origin + path, { method: 'POST', body: body, headers: headers });
        const waitMs = Number(reply.headers.get('Retry-After')) * 1000 || 0;
        answer = { status: reply.status, waitMs: waitMs, text: await reply.text() };
    } catch (e) {
        answer = { status: 0, waitMs: 0, text: '' };
    }
    setNumber('posting', answer.status === 0 ? 1 : 0);
    logAvailability(answer.status);
    return answer;
}

// Logs changes alone: one line when the collector becomes unavailable, one when it is available again.
function logAvailability(status) {
    const isAvailable = status >= 200 && status < 300;
    if (!isAvailable && !number('unavailable')) {
        const problem = status ? `responds with status ${status}` : 'cannot be reached';
        ngx.log(ngx.WARN, `the audit collector ${problem}; audit captures wait, and are dropped when the queue is full`);
    } else if (isAvailable && number('unavailable')) {
        ngx.log(ngx.WARN, 'the audit collector accepts captures again');
    }
    setNumber('unavailable', isAvailable ? 0 : 1);
}

// Whether it makes sense to send the same again; 401 and the like while a token is being rotated.
function maySucceedLater(status) {
    return status === 0 || status >= 500 || [401, 403, 408, 425, 429].indexOf(status) >= 0;
}

function refusedIndexes(text) {
    try {
        return JSON.parse(text).refused.map((each) => each.index);
    } catch (e) {
        return [];
    }
}

async function sendHeartbeat() {
    // Before `highest` is read: whatever gets a higher number is later.
    const atMs = Date.now();
    const highest = number('highest');
    const pendingFrom = number('sent') + 1;
    const first = ngx.shared.auditap_queue.get(String(pendingFrom));
    let sinceMs = atMs;
    if (pendingFrom <= highest) {
        // The next numbers may be a little earlier than this one, because workers run side by side.
        sinceMs = (first ? Number(first.slice(0, TIME_DIGITS)) : number('last_ms') || number('started_ms')) - SETTLE_MS;
    }
    const ranges = droppedRanges();
    const heartbeat = {
        tap: { id: auditap_settings.tap_id, epoch: number('epoch') },
        beat: ngx.shared.auditap_numbers.incr('beat', 1, 0),
        state: 'alive',
        at_ms: atMs,
        started_ms: Math.min(number('started_ms') - SETTLE_MS, sinceMs),
        lease_ms: LEASE_MS,
        highest: highest,
        pending_from: pendingFrom,
        pending_since_ms: Math.min(sinceMs, atMs),
        dropped: ranges,
    };
    setNumber('beat_due_ms', atMs + HEARTBEAT_MS);
    const answer = await post('/v1/heartbeats', JSON.stringify(heartbeat) + '\n', 0);
    if (!maySucceedLater(answer.status)) {
        // Refused or not, this was the last time: what a collector refuses now, it will refuse again.
        ngx.shared.auditap_state.set('dropped', JSON.stringify(droppedRanges().slice(ranges.length)));
    }
}

// Numbers up to the one returned were assigned at least SETTLE_MS ago: what is not in the queue was dropped.
function settledNumber(nowMs, highest) {
    if (nowMs - number('mark_ms') >= SETTLE_MS) {
        setNumber('settled', number('mark'));
        setNumber('mark', highest);
        setNumber('mark_ms', nowMs);
    }
    return number('settled');
}

// Returns the next captures as { lines, seqs, last, fromMs, toMs }. Numbers without a capture are reported as dropped.
function nextBatch(nowMs) {
    const queue = ngx.shared.auditap_queue;
    const highest = number('highest');
    const settled = settledNumber(nowMs, highest);
    const head = `{"tap":{"id":"${auditap_settings.tap_id}","epoch":${number('epoch')}`;
    const batch = { lines: [], seqs: [], last: number('sent'), chars: 0, fromMs: nowMs, toMs: 0 };
    while (batch.last < highest && batch.lines.length < BATCH_PAIRS_MAX && batch.chars < BATCH_CHARS_MAX) {
        const seq = batch.last + 1;
        const entry = queue.get(String(seq));
        if (entry === undefined) {
            if (seq > settled || batch.lines.length > 0) {
                break;  // it may still come; or first those before it
            }
            batch.last = Math.max(number('sent'), dropMissing(seq, settled, nowMs));
            continue;
        }
        const atMs = Number(entry.slice(0, TIME_DIGITS));
        batch.last = seq;
        if (entry.length === TIME_DIGITS + FAILED.length) {
            if (batch.lines.length > 0) {
                batch.last = seq - 1;
                break;
            }
            drop(seq, seq, 'failed', atMs, atMs);
            queue.delete(String(seq));
            setNumber('sent', seq);
            continue;
        }
        batch.fromMs = Math.min(batch.fromMs, atMs);
        batch.toMs = Math.max(batch.toMs, atMs);
        batch.lines.push(head + entry.slice(TIME_DIGITS));
        batch.seqs.push(seq);
        batch.chars += entry.length;
    }
    return batch;
}

// Reports the numbers from `first` on that are not in the queue as dropped, and returns the last of them.
function dropMissing(first, settled, nowMs) {
    if (number('sent') >= first) {
        return first;  // another worker has sent it meanwhile
    }
    const queue = ngx.shared.auditap_queue;
    let last = first;
    while (last < settled && !queue.has(String(last + 1))) {
        last += 1;
    }
    const next = queue.get(String(last + 1));
    const fromMs = (number('last_ms') || number('started_ms')) - SETTLE_MS;
    const toMs = next === undefined ? nowMs : Number(next.slice(0, TIME_DIGITS)) + SETTLE_MS;
    drop(first, last, 'buffer_full', fromMs, Math.max(fromMs, toMs));
    setNumber('sent', last);
    return last;
}

// Takes a batch out of the queue, and counts it as sent.
function settle(batch) {
    // Before they are deleted, so that they are not taken for dropped ones.
    setNumber('sent', Math.max(number('sent'), batch.last));
    for (let i = 0; i < batch.seqs.length; i++) {
        ngx.shared.auditap_queue.delete(String(batch.seqs[i]));
    }
    setNumber('last_ms', Math.max(number('last_ms'), batch.toMs));
    setNumber('failing_since_ms', 0);
    setNumber('retry_delay_ms', 0);
    setNumber('retry_due_ms', 0);
}

// Sends a batch. Returns whether the collector accepted it; if not, it is sent again later, or dropped once its time is up.
async function deliver(batch) {
    const drops = number('drops_to_report');
    const answer = await post('/v1/captures', batch.lines.join(''), drops);
    const nowMs = Date.now();
    if (answer.status >= 200 && answer.status < 300) {
        ngx.shared.auditap_numbers.incr('drops_to_report', -drops, 0);
        refusedIndexes(answer.text).forEach((index) => {
            const seq = batch.seqs[index];
            if (seq) {
                drop(seq, seq, 'refused', batch.fromMs, batch.toMs);
            }
        });
        settle(batch);
        return true;
    }
    const sinceMs = number('failing_since_ms') || nowMs;
    const isRetried = maySucceedLater(answer.status);
    if (!isRetried || nowMs - sinceMs > RETRY_MS_MAX) {
        drop(batch.seqs[0], batch.last, isRetried ? 'collector_away' : 'rejected', batch.fromMs, batch.toMs);
        settle(batch);
        return false;
    }
    const delayMs = Math.min((number('retry_delay_ms') || RETRY_DELAY_MS / 2) * 2, RETRY_DELAY_MS_MAX);
    setNumber('failing_since_ms', sinceMs);
    setNumber('retry_delay_ms', delayMs);
    // Drawn, so that taps do not all come back at once to a collector that was away.
    const waitMs = Math.max(delayMs * (0.5 + Math.random()), Math.min(answer.waitMs, ASKED_WAIT_MS_MAX));
    setNumber('retry_due_ms', nowMs + waitMs);
    return false;
}

// Whether this worker is the one that sends. After a reload the old one ends its run first; one that crashed is waited for.
function isOwner(nowMs) {
    const owner = number('owner');
    if (owner !== 0 && owner !== process.pid && nowMs - number('owner_ms') < OWNER_MS_MAX) {
        return false;
    }
    setNumber('owner', process.pid);
    setNumber('owner_ms', nowMs);
    return true;
}

// Sends what is due. Returns how many characters of captures it sent, and whether there may be more to send at once.
async function sendDue(nowMs) {
    if (nowMs >= number('beat_due_ms')) {
        await sendHeartbeat();
    }
    if (nowMs < number('retry_due_ms')) {
        return { chars: 0, hasMore: false };
    }
    const batch = nextBatch(nowMs);
    if (batch.lines.length === 0 || !await deliver(batch)) {
        return { chars: 0, hasMore: false };
    }
    return { chars: batch.chars, hasMore: batch.lines.length === BATCH_PAIRS_MAX || batch.chars >= BATCH_CHARS_MAX };
}

// For js_periodic: sends what is in the queue, and heartbeats when they are due.
async function send() {
    const mistake = settingsMistake();
    if (mistake) {
        if (ngx.shared.auditap_numbers.incr('mistakes', 1, 0) === 1) {
            ngx.log(ngx.ERR, `the audit tap captures nothing: ${mistake}`);
        }
        return;
    }
    try {
        const untilMs = Date.now() + RUN_MS_MAX;
        let chars = 0;
        // If the last run could not end a request in time, this one makes time for it.
        let slowestMs = number('posting') ? TIMEOUT_MS : LINGER_MS;
        let nowMs = Date.now();
        beginRun();
        // Nothing begins that would probably not end in time.
        while (nowMs + slowestMs < untilMs && chars < RUN_CHARS_MAX) {
            const sent = isOwner(nowMs) ? await sendDue(nowMs) : { chars: 0, hasMore: false };
            chars += sent.chars;
            slowestMs = Math.max(slowestMs, Math.min(Date.now() - nowMs, TIMEOUT_MS));
            if (!sent.hasMore) {
                await new Promise((resolve) => setTimeout(resolve, LINGER_MS));
            }
            nowMs = Date.now();
        }
        setNumber('owner', 0);
    } catch (e) {
        failed(e);
    }
}

export default { header_filter, body_filter, capture, send };
