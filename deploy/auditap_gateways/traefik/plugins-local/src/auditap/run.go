package auditap

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"net"
	"net/http"
	"regexp"
	"sort"
	"strings"
	"sync"
	"time"
)

const (
	epochRandomBits      = 20
	clockStepMsMax       = 5000 // what time synchronization corrects in one step
	droppedRangesMax     = 4096 // in memory, for each cause
	droppedRangesSentMax = 1000 // in one heartbeat: the contract's bound
	urlCharsMax          = 65536
)

// Why a capture was dropped, as heartbeats report it.
const (
	bufferFull    = "buffer_full"
	collectorAway = "collector_away"
	rejected      = "rejected"
	refused       = "refused"
	failed        = "failed"
	closing       = "closing"
)

var hosts = regexp.MustCompile(`^(?:[A-Za-z0-9._\-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$`)

type droppedRange struct {
	first, last, fromMs, toMs int64
	cause                     string
}

// run is one run of the tap: an epoch with its sequence numbers, a queue, and the goroutine that sends.
//
// A number is pending from the beginning of its request until a collector has acknowledged the capture, or it was dropped.
type run struct {
	config          *Config
	settings        string
	epoch           int64
	startedMs       int64
	requestHeaders  *selection
	responseHeaders *selection
	filled          chan bool
	closed          chan bool

	// Held for a few instructions at a time, and never while waiting for anything else.
	lock           sync.Mutex
	bytes          int
	queue          []*pair
	highest        int64
	lowest         int64
	latestMs       int64
	timesUnordered bool
	pendingSinceMs map[int64]int64
	inFlight       int
	dropped        map[string][]droppedRange
	undelivered    []droppedRange
	dropsToReport  int64
}

func newRun(config *Config, settings string) *run {
	now := time.Now()
	drawn := make([]byte, 4)
	_, _ = rand.Read(drawn)
	r := &run{
		config:         config,
		settings:       settings,
		startedMs:      now.UnixMilli(),
		latestMs:       now.UnixMilli(),
		epoch:          now.Unix()<<epochRandomBits | int64(binary.BigEndian.Uint32(drawn)>>(32-epochRandomBits)),
		filled:         make(chan bool, 1),
		closed:         make(chan bool),
		lowest:         1,
		pendingSinceMs: map[int64]int64{},
		dropped:        map[string][]droppedRange{},
	}
	r.requestHeaders = splitNames(requestHeaders, config.RequestHeaders)
	r.responseHeaders = splitNames(responseHeaders, config.ResponseHeaders)
	go newSender(r).work()
	return r
}

// selection is which headers are copied: exact names, as net/http writes them, with those in lower case; and the prefixes of
// others, as net/http writes them. All are written with `-`.
type selection struct {
	exact    map[string]string
	prefixes []string
}

// prefixed returns whether the name has one of the prefixes.
func (s *selection) prefixed(name string) bool {
	for _, prefix := range s.prefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func splitNames(defaults []string, more []string) *selection {
	chosen := &selection{exact: map[string]string{}}
	for _, names := range [][]string{defaults, more} {
		for _, name := range names {
			name = strings.ReplaceAll(name, "_", "-")
			canonical := http.CanonicalHeaderKey(strings.TrimSuffix(name, "*"))
			if strings.HasSuffix(name, "*") {
				chosen.prefixes = append(chosen.prefixes, canonical)
			} else {
				chosen.exact[canonical] = strings.ToLower(name)
			}
		}
	}
	return chosen
}

func (r *run) close() {
	close(r.closed)
}

func (r *run) reserve(bytes int) bool {
	r.lock.Lock()
	defer r.lock.Unlock()
	if r.bytes+bytes > r.config.QueueBytesMax {
		return false
	}
	r.bytes += bytes
	return true
}

func (r *run) release(bytes int) {
	r.lock.Lock()
	r.bytes -= bytes
	r.lock.Unlock()
}

// begin returns what is known of a request at its beginning, with its number.
func (r *run) begin(request *http.Request) *pair {
	copied := !methodsWithoutBodies[request.Method]
	headers := selectHeaders(request.Header, r.requestHeaders)
	headers["host"] = []string{request.Host}
	p := &pair{
		started:        time.Now(),
		method:         request.Method,
		url:            requestURL(request),
		requestHeaders: headers,
		requestBody:    &bodyCopy{run: r, copied: copied},
		responseBody:   &bodyCopy{run: r, copied: copied},
		declaredBytes:  -1,
	}
	if host, _, err := net.SplitHostPort(request.RemoteAddr); err == nil {
		p.clientIP = host
	}
	if isNeverRecorded(request.Header.Get("Content-Type")) {
		p.requestBody.discard()
	}
	// Last, because a number that was assigned must be accounted for.
	r.lock.Lock()
	r.highest++
	r.inFlight++
	// One by one: of `p.seq, p.atMs = …` the interpreter leaves both 0.
	p.seq = r.highest
	p.atMs = r.clockMs()
	r.pendingSinceMs[p.seq] = p.atMs
	r.lock.Unlock()
	return p
}

// clockMs returns the time (Unix ms). A small step back of the clock is not followed. The lock must be held.
func (r *run) clockMs() int64 {
	nowMs := time.Now().UnixMilli()
	if nowMs < r.latestMs {
		if r.latestMs-nowMs <= clockStepMsMax {
			return r.latestMs
		}
		r.timesUnordered = true
	}
	r.latestMs = nowMs
	return nowMs
}

// end captures the pair; what does not fit is dropped, and its number accounted for.
func (r *run) end(p *pair, returned bool) {
	if p.captured {
		return
	}
	p.endRequest()
	if p.status == 0 {
		p.status = http.StatusOK // as net/http sends it for a handler that has written nothing
		if !returned {
			p.status = clientClosedRequest
		}
	}
	if p.status == clientClosedRequest && !returned {
		// Traefik's own words, which nobody receives.
		r.release(len(p.responseBody.data))
		p.responseBody = &bodyCopy{run: r}
	}
	p.complete = p.isComplete(returned)
	p.durationMs = float64(time.Since(p.started).Microseconds()) / 1000
	bodyBytes := len(p.requestBody.data) + len(p.responseBody.data)
	ownBytes := pairBytes + len(p.url) + headerBytes(p.requestHeaders) + headerBytes(p.responseHeaders)
	r.lock.Lock()
	r.inFlight--
	if r.bytes+ownBytes > r.config.QueueBytesMax {
		r.bytes -= bodyBytes
		r.drop(p.seq, bufferFull)
	} else {
		r.bytes += ownBytes
		p.sizeBytes = ownBytes + bodyBytes
		r.queue = append(r.queue, p)
	}
	r.lock.Unlock()
	select {
	case r.filled <- true:
	default:
	}
}

func headerBytes(headers map[string][]string) int {
	bytes := 0
	for name, values := range headers {
		for _, value := range values {
			bytes += len(name) + len(value)
		}
	}
	return bytes
}

// requestURL returns the URL as received. It is always absolute, so that neither path nor Host can pass for another part.
func requestURL(request *http.Request) string {
	host, target := request.Host, request.RequestURI
	if !hosts.MatchString(host) {
		host = "unknown.invalid"
	}
	if !strings.HasPrefix(target, "/") {
		target = request.URL.RequestURI()
	}
	scheme := "http://"
	if request.TLS != nil {
		scheme = "https://"
	}
	return boundedURL(scheme + host + "/" + strings.TrimPrefix(percentEncoded(target), "/"))
}

// boundedURL returns a URL that is not too long. What is cut off may ask for another method, or make another path: with the
// segment `.`, no operation applies as it is written, and its account is still found.
func boundedURL(url string) string {
	if len(url) <= urlCharsMax {
		return url
	}
	path, _, _ := strings.Cut(url, "?")
	if len(path) > urlCharsMax/2 {
		path = path[:urlCharsMax/2]
	}
	return path + "/."
}

var unsafeInURL = regexp.MustCompile("[^!$-;=?-Z\\[\\]_a-z~]")

func percentEncoded(target string) string {
	if !unsafeInURL.MatchString(target) {
		return target
	}
	const digits = "0123456789ABCDEF"
	encoded := []byte{}
	for index := 0; index < len(target); index++ {
		char := target[index]
		if char <= 0x20 || char >= 0x7f || strings.IndexByte("\"#<>\\^`{|}", char) >= 0 {
			encoded = append(encoded, '%', digits[char>>4], digits[char&15])
		} else {
			encoded = append(encoded, char)
		}
	}
	return string(encoded)
}

// drop counts a pending number as dropped; others are passed over. The lock must be held.
func (r *run) drop(seq int64, cause string) {
	atMs, pending := r.pendingSinceMs[seq]
	if !pending {
		return
	}
	delete(r.pendingSinceMs, seq)
	r.dropsToReport++
	ranges := r.dropped[cause]
	index := sort.Search(len(ranges), func(i int) bool { return ranges[i].last >= seq-1 })
	if index < len(ranges) && ranges[index].first <= seq+1 {
		found := &ranges[index]
		found.first = lower(found.first, seq)
		found.last = higher(found.last, seq)
		found.fromMs = lower(found.fromMs, atMs)
		found.toMs = higher(found.toMs, atMs)
		if index+1 < len(ranges) && ranges[index+1].first == found.last+1 {
			next := ranges[index+1]
			found.last = next.last
			found.fromMs = lower(found.fromMs, next.fromMs)
			found.toMs = higher(found.toMs, next.toMs)
			r.dropped[cause] = append(ranges[:index+1], ranges[index+2:]...)
		}
		return
	}
	if len(ranges) >= droppedRangesMax {
		return // a gap without a cause
	}
	ranges = append(ranges, droppedRange{})
	copy(ranges[index+1:], ranges[index:])
	ranges[index] = droppedRange{first: seq, last: seq, fromMs: atMs, toMs: atMs, cause: cause}
	r.dropped[cause] = ranges
}

func lower(a int64, b int64) int64 {
	if a < b {
		return a
	}
	return b
}

func higher(a int64, b int64) int64 {
	if a > b {
		return a
	}
	return b
}

// dropAll counts every pending number as dropped.
func (r *run) dropAll(cause string) {
	r.lock.Lock()
	defer r.lock.Unlock()
	seqs := []int64{}
	for seq := range r.pendingSinceMs {
		seqs = append(seqs, seq)
	}
	sort.Slice(seqs, func(i int, j int) bool { return seqs[i] < seqs[j] })
	for _, seq := range seqs {
		r.drop(seq, cause)
	}
}

// heartbeat returns the fields of a heartbeat that are about numbers. Dropped ranges are repeated until they are forgotten.
func (r *run) heartbeat() map[string]interface{} {
	r.lock.Lock()
	defer r.lock.Unlock()
	for cause, ranges := range r.dropped {
		taken := droppedRangesSentMax - len(r.undelivered)
		if taken > len(ranges) {
			taken = len(ranges)
		}
		r.undelivered = append(r.undelivered, ranges[:taken]...)
		r.dropped[cause] = append([]droppedRange{}, ranges[taken:]...)
	}
	nowMs := r.clockMs()
	for r.lowest <= r.highest {
		if _, pending := r.pendingSinceMs[r.lowest]; pending {
			break
		}
		r.lowest++
	}
	sinceMs := int64(math.MaxInt64)
	if r.timesUnordered {
		for _, atMs := range r.pendingSinceMs {
			sinceMs = lower(sinceMs, atMs)
		}
	} else if atMs, pending := r.pendingSinceMs[r.lowest]; pending {
		sinceMs = atMs
	}
	sinceMs = lower(sinceMs, nowMs)
	dropped := []map[string]interface{}{}
	for _, each := range r.undelivered {
		dropped = append(dropped, map[string]interface{}{
			"first": each.first, "last": each.last, "cause": each.cause, "from_ms": each.fromMs, "to_ms": each.toMs,
		})
	}
	return map[string]interface{}{
		"at_ms": nowMs, "started_ms": lower(r.startedMs, sinceMs), "highest": r.highest,
		"pending_from": r.lowest, "pending_since_ms": sinceMs, "dropped": dropped,
	}
}
