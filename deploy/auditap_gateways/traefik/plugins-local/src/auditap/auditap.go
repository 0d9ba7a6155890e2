// Package auditap is the tap for Traefik: a local plugin, run by its interpreter (Yaegi), that needs the standard library alone.
//
// A middleware copies what the audit log may need of a request and its response, and never waits. One goroutine for each
// middleware sends the copies to the collector: schemas/capture.schema.json and schemas/heartbeat.schema.json.
package auditap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
)

// Config is what the middleware is configured with. Zero stands for the default.
type Config struct {
	// Collector is unix:/path/of/socket, or http://127.0.0.1:8400 on loopback, where a token is required.
	Collector string `json:"collector,omitempty"`
	// TapID is the name of this gateway among the taps.
	TapID string `json:"tapId,omitempty"`
	Token string `json:"token,omitempty"`
	// RequestHeaders and ResponseHeaders are copied besides the usual ones; x-tenant-* stands for all with that prefix.
	RequestHeaders  []string `json:"requestHeaders,omitempty"`
	ResponseHeaders []string `json:"responseHeaders,omitempty"`
	// QueueBytesMax bounds the pairs in memory, waiting or being sent. A body longer than BodyBytesMax is not copied.
	QueueBytesMax int `json:"queueBytesMax,omitempty"`
	BodyBytesMax  int `json:"bodyBytesMax,omitempty"`
	// RetryMsMax is how long one batch is retried.
	RetryMsMax int `json:"retryMsMax,omitempty"`
}

const (
	defaultQueueBytesMax = 64 * 1024 * 1024
	defaultBodyBytesMax  = 256 * 1024
	defaultRetryMsMax    = 300_000
	tokenCharsMin        = 16
)

var (
	tapIDs      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,63}$`)
	tokens      = regexp.MustCompile(`^[!-~]+$`)
	headerNames = regexp.MustCompile("^[!#$%&'+.^_`|~0-9A-Za-z-]+\\*?$")
)

// CreateConfig returns the settings that Traefik fills in.
func CreateConfig() *Config {
	return &Config{
		QueueBytesMax: defaultQueueBytesMax,
		BodyBytesMax:  defaultBodyBytesMax,
		RetryMsMax:    defaultRetryMsMax,
	}
}

// check returns an error of one sentence if a setting is wrong.
func (c *Config) check() error {
	network, _, err := collectorAddress(c.Collector)
	if err != nil {
		return err
	}
	if !tapIDs.MatchString(c.TapID) {
		return errors.New("tapId must be 1 to 64 letters, digits and _ . : - and begin with one of the first two")
	}
	if c.Token != "" && (len(c.Token) < tokenCharsMin || !tokens.MatchString(c.Token)) {
		return fmt.Errorf("token must have at least %d characters of printable ASCII", tokenCharsMin)
	}
	if c.Token == "" && network == "tcp" {
		return errors.New("token is required over TCP, where collectors refuse captures without one")
	}
	if c.QueueBytesMax < 1 || c.BodyBytesMax < 1 || c.RetryMsMax < 1 {
		return errors.New("queueBytesMax, bodyBytesMax and retryMsMax must be above 0")
	}
	for _, names := range [][]string{c.RequestHeaders, c.ResponseHeaders} {
		for _, name := range names {
			if !headerNames.MatchString(name) {
				return errors.New("requestHeaders and responseHeaders must be lists of header names, or prefixes like x-tenant-*")
			}
		}
	}
	return nil
}

// collectorAddress returns network and address for a dialer.
func collectorAddress(collector string) (string, string, error) {
	if strings.HasPrefix(collector, "unix:/") {
		return "unix", strings.TrimPrefix(collector, "unix:"), nil
	}
	if strings.HasPrefix(collector, "http://") {
		address := strings.TrimSuffix(strings.TrimPrefix(collector, "http://"), "/")
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsLoopback() {
			return "tcp", address, nil
		}
	}
	return "", "", errors.New("collector must be unix:/path/of/socket, or http://127.0.0.1:8400 on loopback")
}

// Traefik calls New for each router that uses a middleware, and again when its configuration changes.
var (
	runsLock sync.Mutex
	runs     = map[string]*run{}
)

// runOf returns the run of the middleware with this name, a new one if there is none or its settings have changed.
func runOf(name string, config *Config) *run {
	runsLock.Lock()
	defer runsLock.Unlock()
	settings := fmt.Sprintf("%+v", *config)
	if existing := runs[name]; existing != nil {
		if existing.settings == settings {
			return existing
		}
		existing.close()
	}
	runs[name] = newRun(config, settings)
	return runs[name]
}

type middleware struct {
	next http.Handler
	run  *run
}

// New returns the middleware around the next handler. A wrong setting is an error of one sentence.
func New(_ context.Context, next http.Handler, config *Config, name string) (http.Handler, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	return &middleware{next: next, run: runOf(name, config)}, nil
}

// refuseTunnels lets a connection become a WebSocket alone: inside of another protocol, requests would pass that nobody sees.
func refuseTunnels(headers http.Header) {
	upgrades := headers["Upgrade"]
	if len(upgrades) > 1 || (len(upgrades) == 1 && !strings.EqualFold(upgrades[0], "websocket")) {
		headers.Del("Upgrade")
	}
	headers.Del("Http2-Settings")
}

// ServeHTTP passes the request on and captures the pair, however the next handler ends.
func (m *middleware) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	pair := m.run.begin(request)
	observed := &observedWriter{writer: writer, run: m.run, pair: pair}
	request.Body = pair.observeBody(request.Body, request.ContentLength)
	refuseTunnels(request.Header)
	returned := false
	// Not by recover: the server has to see the panic by which a handler aborts a response, and how it looks.
	defer func() {
		// A client that has the whole response may be gone before the handler returns: that alone says nothing.
		left := request.Context().Err() != nil && (pair.status == 0 || pair.status == clientClosedRequest)
		m.run.end(pair, returned && !left)
	}()
	m.next.ServeHTTP(observed, request)
	returned = true
}
