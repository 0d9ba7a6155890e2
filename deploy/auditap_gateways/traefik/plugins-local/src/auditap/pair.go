package auditap

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	pairBytes           = 1024   // what a waiting pair takes besides its bodies, headers and URL
	headerValueBytesMax = 16_384 // a signed token with many claims is long
	headerLinesMax      = 64
	clientClosedRequest = 499
)

var (
	requestHeaders = []string{
		"user-agent", "cf-ray", "x-request-id", "content-type", "content-encoding",
		// These show the redactor that another method was asked for, whose operation is another one.
		"x-http-method-override", "x-http-method", "x-method-override",
		// Which client it was, where proxies stand before this one.
		"x-forwarded-for", "forwarded",
	}
	// Each proxy appends to these, so that their end can be trusted and their start is what the client made up.
	chains               = map[string]bool{"x-forwarded-for": true, "forwarded": true}
	responseHeaders      = []string{"x-actor-*", "x-account-id", "content-type", "content-encoding", "content-length"}
	methodsWithoutBodies = map[string]bool{"GET": true, "HEAD": true, "OPTIONS": true, "TRACE": true, "CONNECT": true}
	// The redactor records nothing of these media types, and some of these streams never end.
	mediaNeverRecorded = []string{"text/event-stream", "image/", "audio/", "video/", "font/"}
)

func isNeverRecorded(contentType string) bool {
	contentType = strings.ToLower(strings.TrimLeft(contentType, " \t"))
	for _, prefix := range mediaNeverRecorded {
		if strings.HasPrefix(contentType, prefix) {
			return true
		}
	}
	return false
}

// selectHeaders returns the chosen headers with names in lower case; long values are cut.
//
// Each call costs the interpreter about a microsecond, so there are as few as possible for what nearly all requests have.
func selectHeaders(headers http.Header, chosen *selection) map[string][]string {
	selected := map[string][]string{}
	for name, values := range headers {
		lowered, known := chosen.exact[name]
		if !known {
			dashed := name
			if strings.Contains(name, "_") {
				// Services behind WSGI and CGI take it for the header with `-`.
				dashed = http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
				_, known = chosen.exact[dashed]
			}
			if !known && (len(selected) >= headerLinesMax || !chosen.prefixed(dashed)) {
				continue
			}
			lowered = strings.ToLower(name)
		}
		if len(values) == 1 && len(values[0]) <= headerValueBytesMax {
			selected[lowered] = values
		} else {
			selected[lowered] = cut(lowered, values)
		}
	}
	return selected
}

// cut returns a bounded copy: of very many lines the first and the last ones, so that none hides the one that counts.
func cut(name string, values []string) []string {
	if chains[name] {
		chain := strings.Join(values, ", ")
		if len(chain) > headerValueBytesMax {
			chain = chain[len(chain)-headerValueBytesMax:]
		}
		return []string{chain}
	}
	kept := []string{}
	for index, value := range values {
		if index >= headerLinesMax/2 && index < len(values)-headerLinesMax/2 {
			continue
		}
		if len(value) > headerValueBytesMax {
			value = value[:headerValueBytesMax]
		}
		kept = append(kept, value)
	}
	return kept
}

// bodyCopy is a bounded copy of a body. One that does not fit is discarded as a whole and marked truncated.
type bodyCopy struct {
	run       *run
	copied    bool
	data      []byte
	truncated bool
	notRead   bool
}

func (b *bodyCopy) append(chunk []byte) {
	if len(chunk) == 0 || b.truncated || !b.copied {
		return
	}
	if len(b.data)+len(chunk) > b.run.config.BodyBytesMax || !b.run.reserve(len(chunk)) {
		b.discard()
		return
	}
	b.data = append(b.data, chunk...)
}

func (b *bodyCopy) discard() {
	if b.copied {
		b.truncated = true
		b.run.release(len(b.data))
		b.data = nil
	}
}

// pair is one request and its response, as observed. It belongs to the handler's goroutine until it ends.
type pair struct {
	// Held where the request's body is copied: the proxy's transport may read on in another goroutine while the exchange ends.
	bodyLock        sync.Mutex
	seq             int64
	atMs            int64
	started         time.Time
	method          string
	url             string
	clientIP        string
	requestHeaders  map[string][]string
	requestBody     *bodyCopy
	requestEnded    bool
	status          int
	responseHeaders map[string][]string
	responseBody    *bodyCopy
	declaredBytes   int64 // of the response's body; -1 if unknown
	sentBytes       int64
	writeFailed     bool
	captured        bool
	complete        bool
	durationMs      float64
	sizeBytes       int
}

// observedBody is a request's body that is copied while it is read.
type observedBody struct {
	body io.ReadCloser
	pair *pair
}

func (p *pair) observeBody(body io.ReadCloser, declaredBytes int64) io.ReadCloser {
	if body == nil || body == http.NoBody || declaredBytes == 0 {
		p.requestEnded = true
		return body
	}
	if !p.requestBody.copied {
		return body
	}
	if declaredBytes > int64(p.requestBody.run.config.BodyBytesMax) {
		// Not copied up to the limit first, for which the interpreter takes milliseconds.
		p.requestBody.discard()
		return body
	}
	return &observedBody{body: body, pair: p}
}

func (o *observedBody) Read(buffer []byte) (int, error) {
	n, err := o.body.Read(buffer)
	o.pair.observeRead(buffer[:n], err == io.EOF)
	return n, err
}

// observeRead copies what was read of the request's body, unless the exchange has ended.
func (p *pair) observeRead(chunk []byte, last bool) {
	p.bodyLock.Lock()
	defer p.bodyLock.Unlock()
	if p.captured {
		return
	}
	p.requestBody.append(chunk)
	p.requestEnded = p.requestEnded || last
}

// endRequest ends the copying of the request's body. One that was not read to its end is discarded.
func (p *pair) endRequest() {
	p.bodyLock.Lock()
	defer p.bodyLock.Unlock()
	p.captured = true
	if !p.requestEnded {
		p.requestBody.notRead = p.requestBody.copied && !p.requestBody.truncated
		p.requestBody.discard()
	}
}

func (o *observedBody) Close() error {
	return o.body.Close()
}

// observedWriter copies the response while it is sent.
//
// Traefik sees of an interpreted type only ResponseWriter and Hijacker, so it cannot flush: each write is flushed, or streams
// would be held back.
type observedWriter struct {
	writer http.ResponseWriter
	run    *run
	pair   *pair
}

func (o *observedWriter) Header() http.Header {
	return o.writer.Header()
}

func (o *observedWriter) WriteHeader(status int) {
	// Early hints belong to no response.
	if (status < 100 || status > 199) && o.pair.status == 0 {
		o.begin(status)
	}
	o.writer.WriteHeader(status)
}

func (o *observedWriter) begin(status int) {
	p, headers := o.pair, o.writer.Header()
	p.status = status
	p.responseHeaders = selectHeaders(headers, o.run.responseHeaders)
	p.declaredBytes = -1
	if declared, err := strconv.ParseInt(headers.Get("Content-Length"), 10, 64); err == nil {
		p.declaredBytes = declared
	}
	if isNeverRecorded(headers.Get("Content-Type")) {
		p.responseBody.discard()
	}
}

func (o *observedWriter) Write(chunk []byte) (int, error) {
	if o.pair.status == 0 {
		o.begin(http.StatusOK)
	}
	o.pair.responseBody.append(chunk)
	n, err := o.writer.Write(chunk)
	o.pair.sentBytes += int64(n)
	if err != nil {
		o.pair.writeFailed = true
	} else {
		o.Flush()
	}
	return n, err
}

func (o *observedWriter) Flush() {
	if flusher, ok := o.writer.(http.Flusher); ok {
		flusher.Flush()
	}
}

func (o *observedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(o.writer).Hijack()
	if err == nil {
		// From here on it is no HTTP, and may last for days.
		o.pair.status = http.StatusSwitchingProtocols
		o.run.end(o.pair, true)
	}
	return conn, buffered, err
}

// isComplete returns whether the response was sent to its end. `returned`: the handler did not panic, as it does where the
// client leaves in the middle of a response, and the client did not leave before it.
func (p *pair) isComplete(returned bool) bool {
	if !returned || p.writeFailed {
		return false
	}
	hasBody := p.method != http.MethodHead && p.status != http.StatusNoContent && p.status != http.StatusNotModified
	return p.declaredBytes < 0 || !hasBody || p.sentBytes == p.declaredBytes
}
