package auditap

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand"
	"net"
	"net/http"
	"os"
	"os/signal"
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"
)

const (
	batchPairsMax    = 100
	batchBytesMax    = 4 * 1024 * 1024
	linger           = 50 * time.Millisecond
	timeout          = 5 * time.Second
	retryDelay       = 50 * time.Millisecond
	retryDelayMax    = 5 * time.Second
	askedWaitMax     = time.Minute // meanwhile new captures fill the queue
	heartbeatEvery   = 5 * time.Second
	leaseMs          = 30_000
	closeMax         = 2 * time.Second
	responseBytesMax = 4 * 1024 * 1024
)

// Responses while a token is being rotated, or a proxy is not ready yet; 0: the collector could not be reached.
var retriedStatus = map[int]bool{0: true, 401: true, 403: true, 408: true, 425: true, 429: true}

// sender sends what the queue holds. Everything of it belongs to the run's goroutine.
type sender struct {
	run         *run
	client      *http.Client
	origin      string
	beat        int64
	beatDue     time.Time
	unavailable bool
	ending      bool
	endBy       time.Time // set once the run ends
	signals     chan os.Signal
}

func newSender(r *run) *sender {
	network, address, _ := collectorAddress(r.config.Collector)
	dialer := &net.Dialer{Timeout: timeout}
	transport := &http.Transport{
		// No proxy from the environment may see captures.
		Proxy: nil,
		DialContext: func(ctx context.Context, _ string, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, network, address)
		},
		MaxIdleConns:       1,
		DisableCompression: true,
	}
	origin := "http://collector"
	if network == "tcp" {
		origin = "http://" + address
	}
	s := &sender{run: r, client: &http.Client{Transport: transport, Timeout: timeout}, origin: origin}
	s.signals = make(chan os.Signal, 1)
	signal.Notify(s.signals, os.Interrupt, terminated())
	return s
}

// terminated returns SIGTERM. Its constant is in package syscall, which Traefik keeps from plugins.
func terminated() os.Signal {
	value := reflect.New(reflect.TypeOf(os.Interrupt)).Elem()
	value.SetInt(15)
	return value.Interface().(os.Signal)
}

func (s *sender) work() {
	defer signal.Stop(s.signals)
	for !s.ending {
		s.sendHeartbeatIfDue()
		timer := time.NewTimer(time.Until(s.beatDue))
		select {
		case <-s.run.filled:
			s.pause(linger)
			s.sendAll()
		case <-s.signals:
			s.end()
		case <-s.run.closed:
			s.end()
		case <-timer.C:
		}
		timer.Stop()
	}
	s.drain()
	s.sendAll()
	s.run.dropAll(closing)
	s.sendHeartbeat("ended")
}

// end begins the end of the run. Traefik ends at once if no request is in flight: what is left has to go out before.
func (s *sender) end() {
	s.ending = true
	s.endBy = time.Now().Add(closeMax)
}

// drain waits for the requests in flight, whose captures are to go out too.
func (s *sender) drain() {
	for time.Now().Before(s.endBy) {
		s.run.lock.Lock()
		inFlight := s.run.inFlight
		s.run.lock.Unlock()
		if inFlight == 0 {
			return
		}
		s.sendAll()
		time.Sleep(linger / 5)
	}
}

// pause waits, no longer than until the run is to end.
func (s *sender) pause(wait time.Duration) {
	if s.ending {
		time.Sleep(wait)
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.signals:
		s.end()
	case <-s.run.closed:
		s.end()
	}
}

// sendAll sends batches until the queue is empty.
func (s *sender) sendAll() {
	for {
		pairs, sizeBytes := s.nextBatch()
		if len(pairs) == 0 {
			return
		}
		s.deliver(pairs)
		s.run.release(sizeBytes)
		s.sendHeartbeatIfDue()
	}
}

// nextBatch takes pairs out of the queue, whose bytes stay reserved until they are released.
func (s *sender) nextBatch() ([]*pair, int) {
	r := s.run
	r.lock.Lock()
	defer r.lock.Unlock()
	count, sizeBytes := 0, 0
	for count < len(r.queue) && count < batchPairsMax && sizeBytes < batchBytesMax {
		sizeBytes += r.queue[count].sizeBytes
		count++
	}
	pairs := append([]*pair{}, r.queue[:count]...)
	r.queue = r.queue[count:]
	if len(r.queue) == 0 {
		r.queue = nil
	}
	return pairs, sizeBytes
}

// deliver sends a batch until the collector accepts or rejects it, or the time for it is up.
func (s *sender) deliver(pairs []*pair) {
	body, seqs := s.encodeAll(pairs)
	giveUp := time.Now().Add(time.Duration(s.run.config.RetryMsMax) * time.Millisecond)
	delay := retryDelay
	for {
		s.run.lock.Lock()
		dropped := s.run.dropsToReport
		s.run.lock.Unlock()
		status, asked, response := s.post("/v1/captures", body, dropped)
		if status >= 200 && status < 300 {
			s.acknowledge(seqs, response, dropped)
			return
		}
		// Drawn, so that taps do not all come back at once to a collector that was away.
		wait := time.Duration(float64(delay) * (0.5 + rand.Float64()))
		if asked > wait {
			wait = asked
		}
		if s.ending && s.endBy.Before(giveUp) {
			giveUp = s.endBy
		}
		if !maySucceedLater(status) || time.Now().Add(wait).After(giveUp) {
			s.dropBatch(seqs, status)
			return
		}
		s.wait(wait)
		delay = time.Duration(math.Min(float64(2*delay), float64(retryDelayMax)))
	}
}

// wait waits until the next attempt; heartbeats go on meanwhile.
func (s *sender) wait(wait time.Duration) {
	until, wasEnding := time.Now().Add(wait), s.ending
	for time.Now().Before(until) && s.ending == wasEnding {
		left := time.Until(until)
		if beat := time.Until(s.beatDue); beat > 0 && beat < left {
			left = beat
		}
		s.pause(left)
		s.sendHeartbeatIfDue()
	}
}

func (s *sender) dropBatch(seqs []int64, status int) {
	cause := rejected
	if maySucceedLater(status) {
		cause = collectorAway
	}
	s.run.lock.Lock()
	defer s.run.lock.Unlock()
	for _, seq := range seqs {
		s.run.drop(seq, cause)
	}
}

func (s *sender) acknowledge(seqs []int64, response []byte, dropped int64) {
	s.run.lock.Lock()
	defer s.run.lock.Unlock()
	s.run.dropsToReport -= dropped
	for _, index := range refusedIndexes(response) {
		if index < len(seqs) {
			s.run.drop(seqs[index], refused)
		}
	}
	for _, seq := range seqs {
		delete(s.run.pendingSinceMs, seq)
	}
}

func maySucceedLater(status int) bool {
	return status >= 500 || retriedStatus[status]
}

func refusedIndexes(response []byte) []int {
	var reply map[string]interface{}
	indexes := []int{}
	if json.Unmarshal(response, &reply) != nil {
		return indexes
	}
	lines, _ := reply["refused"].([]interface{})
	for _, line := range lines {
		fields, _ := line.(map[string]interface{})
		if index, ok := fields["index"].(float64); ok && index >= 0 {
			indexes = append(indexes, int(index))
		}
	}
	return indexes
}

// post sends NDJSON, and returns the status (0 if the collector could not be reached), how long it asks to wait, and the body.
func (s *sender) post(path string, body []byte, dropped int64) (int, time.Duration, []byte) {
	request, err := http.NewRequest(http.MethodPost, s.origin+path, bytes.NewReader(body))
	if err != nil {
		return 0, 0, nil
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	if s.run.config.Token != "" {
		request.Header.Set("Authorization", "Bearer "+s.run.config.Token)
	}
	if dropped > 0 {
		request.Header.Set("Auditap-Dropped", strconv.FormatInt(dropped, 10))
	}
	response, err := s.client.Do(request)
	if err != nil {
		s.logAvailability("cannot be reached")
		return 0, 0, nil
	}
	defer response.Body.Close()
	received, err := io.ReadAll(io.LimitReader(response.Body, responseBytesMax))
	if err != nil {
		s.logAvailability("cannot be reached")
		return 0, 0, nil
	}
	problem := ""
	if response.StatusCode < 200 || response.StatusCode > 299 {
		problem = fmt.Sprintf("responds with status %d", response.StatusCode)
	}
	s.logAvailability(problem)
	seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
	asked := time.Duration(seconds) * time.Second
	if asked > askedWaitMax {
		asked = askedWaitMax
	}
	return response.StatusCode, asked, received
}

// logAvailability logs changes alone: one line when the collector becomes unavailable, one when it is available again.
func (s *sender) logAvailability(problem string) {
	if problem != "" && !s.unavailable {
		log.Printf("the audit collector %s; audit captures wait, and are dropped when the queue is full", problem)
	} else if problem == "" && s.unavailable {
		log.Printf("the audit collector accepts captures again")
	}
	s.unavailable = problem != ""
}

func (s *sender) sendHeartbeatIfDue() {
	if !time.Now().Before(s.beatDue) {
		s.sendHeartbeat("alive")
	}
}

func (s *sender) sendHeartbeat(state string) {
	s.beat++
	s.beatDue = time.Now().Add(heartbeatEvery)
	fields := s.run.heartbeat()
	fields["tap"] = map[string]interface{}{"id": s.run.config.TapID, "epoch": s.run.epoch}
	fields["beat"] = s.beat
	fields["state"] = state
	fields["lease_ms"] = leaseMs
	ranges := len(fields["dropped"].([]map[string]interface{}))
	line, err := json.Marshal(fields)
	if err != nil {
		return
	}
	status, _, _ := s.post("/v1/heartbeats", append(line, '\n'), 0)
	if maySucceedLater(status) {
		return
	}
	// Refused or not, this was the last time: what a collector refuses now, it will refuse again.
	s.run.lock.Lock()
	s.run.undelivered = append([]droppedRange{}, s.run.undelivered[ranges:]...)
	s.run.lock.Unlock()
}

// encodeAll returns the pairs as NDJSON, and their numbers. One that cannot be encoded must not cost the others.
func (s *sender) encodeAll(pairs []*pair) ([]byte, []int64) {
	body, seqs := []byte{}, []int64{}
	for _, p := range pairs {
		line, err := json.Marshal(s.capture(p))
		if err != nil {
			s.run.lock.Lock()
			s.run.drop(p.seq, failed)
			s.run.lock.Unlock()
			continue
		}
		body = append(append(body, line...), '\n')
		seqs = append(seqs, p.seq)
	}
	return body, seqs
}

func (s *sender) capture(p *pair) map[string]interface{} {
	request := map[string]interface{}{"method": p.method, "url": p.url, "headers": headerFields(p.requestHeaders)}
	if len(p.method) > 64 {
		request["method"] = p.method[:64]
	}
	response := map[string]interface{}{
		"status": p.status, "headers": headerFields(p.responseHeaders), "complete": p.complete,
	}
	addBody(request, p.requestBody)
	addBody(response, p.responseBody)
	capture := map[string]interface{}{
		"tap":         map[string]interface{}{"id": s.run.config.TapID, "epoch": s.run.epoch, "seq": p.seq},
		"captured_at": time.UnixMilli(p.atMs).UTC().Format("2006-01-02T15:04:05.000Z"),
		"duration_ms": p.durationMs,
		"request":     request,
		"response":    response,
	}
	if p.clientIP != "" {
		capture["client_ip"] = p.clientIP
	}
	return capture
}

func addBody(fields map[string]interface{}, body *bodyCopy) {
	if body.notRead {
		fields["not_read"] = true
	}
	if body.truncated {
		fields["truncated"] = true
	} else if len(body.data) > 0 {
		fields["body_base64"] = base64.StdEncoding.EncodeToString(body.data)
	}
}

// headerFields returns headers by name; a repeated one has a list of values.
func headerFields(headers map[string][]string) map[string]interface{} {
	fields := map[string]interface{}{}
	for name, values := range headers {
		texts := []string{}
		for _, value := range values {
			texts = append(texts, headerText(value))
		}
		if len(texts) == 1 {
			fields[name] = texts[0]
		} else {
			fields[name] = texts
		}
	}
	return fields
}

// headerText returns a header's value. Names of actors arrive as UTF-8, which HTTP does not name; all else is Latin-1.
func headerText(value string) string {
	if utf8.ValidString(value) {
		return value
	}
	runes := []rune{}
	for index := 0; index < len(value); index++ {
		runes = append(runes, rune(value[index]))
	}
	return string(runes)
}
