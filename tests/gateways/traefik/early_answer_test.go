package auditap

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// slowly yields a body in small pieces, so that much of it is still to come when the response is there.
type slowly struct {
	left int
}

func (s *slowly) Read(buffer []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	s.left--
	time.Sleep(100 * time.Microsecond)
	return copy(buffer, "0123456789"), nil
}

func answerAtOnce(service net.Listener) {
	for {
		connection, err := service.Accept()
		if err != nil {
			return
		}
		go func() {
			defer connection.Close()
			_, _ = connection.Read(make([]byte, 1))
			_, _ = connection.Write([]byte("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
			_, _ = io.Copy(io.Discard, connection)
		}()
	}
}

// The transport of a proxy reads a request's body on, in a goroutine of its own, when the service has answered already.
func TestABodyIsReadOnWhileTheExchangeEnds(t *testing.T) {
	// Not by net/http, which reads bodies before it answers.
	service, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer service.Close()
	go answerAtOnce(service)
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	lock, received := sync.Mutex{}, bytes.Buffer{}
	collector := &http.Server{Handler: http.HandlerFunc(func(writer http.ResponseWriter, request *http.Request) {
		lock.Lock()
		defer lock.Unlock()
		_, _ = io.Copy(&received, request.Body)
		_, _ = writer.Write([]byte("{}"))
	})}
	go func() { _ = collector.Serve(listener) }()
	defer collector.Close()

	config := CreateConfig()
	config.Collector, config.TapID = "unix:"+socket, "race"
	target, _ := url.Parse("http://" + service.Addr().String())
	tapped, err := New(context.Background(), httputil.NewSingleHostReverseProxy(target), config, "race")
	if err != nil {
		t.Fatal(err)
	}
	requests := sync.WaitGroup{}
	for range 200 {
		requests.Add(1)
		go func() {
			defer requests.Done()
			request := httptest.NewRequest(http.MethodPost, "/", &slowly{left: 50})
			tapped.ServeHTTP(httptest.NewRecorder(), request)
		}()
	}
	requests.Wait()
	arrived := func() int {
		lock.Lock()
		defer lock.Unlock()
		return bytes.Count(received.Bytes(), []byte(`"captured_at"`))
	}
	for deadline := time.Now().Add(time.Minute); arrived() < 200; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of 200 captures arrived", arrived())
		}
	}
	lock.Lock()
	defer lock.Unlock()
	for _, line := range bytes.Split(received.Bytes(), []byte("\n")) {
		whole := bytes.Repeat([]byte("0123456789"), 50)
		if bytes.Contains(line, []byte("01234")) && !bytes.Contains(line, whole) {
			t.Fatalf("a part of a body passed for it: %s", line)
		}
	}
}
