// Command clients reads a log with clients written in Go, for the tests in tests/clients.
//
// The only argument is what to read, as JSON. Each page is a line on standard output, after which the command waits for
// a line on standard input: meanwhile the test changes the log.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
)

// Request is what to read, and how. Reads: see `readers`. `Since` and `Before` are RFC 3339.
type Request struct {
	Reads        string `json:"reads"`
	BaseURL      string `json:"base_url"`
	Token        string `json:"token"`
	Email        string `json:"email"`
	Key          string `json:"key"`
	Account      string `json:"account"`
	Organization string `json:"organization"`
	Record       string `json:"record"`
	Since        string `json:"since"`
	Before       string `json:"before"`
	Direction    string `json:"direction"`
	PerPage      int    `json:"per_page"`
	Retries      int    `json:"retries"`
	NotResult    string `json:"not_result"`
}

// Failure is an error of the log API as the client shows it. `Kind` is the client's own type.
type Failure struct {
	Kind   string `json:"kind"`
	Status int    `json:"status"`
	Codes  []int  `json:"codes"`
}

type line struct {
	Page       any      `json:"page,omitempty"`
	Unexpected []string `json:"unexpected,omitempty"`
	Failure    *Failure `json:"failure,omitempty"`
	End        bool     `json:"end,omitempty"`
}

// Show writes a page and returns once the test says so. `unexpected` names what the client does not know of the page.
type Show func(page any, unexpected []string)

var readers = map[string]func(Request, Show) error{
	"v7 v2":            readV2,
	"v7 v1":            readV1,
	"v7 history":       readHistory,
	"v7 organization":  readOrganization,
	"v0 v1":            readV0,
	"v0 user":          readV0User,
	"scraper v1":       scrape,
	"second poller v2": pollBySeconds,
	"page poller v1":   pollOnePage,
}

func main() {
	var request Request
	if err := json.Unmarshal([]byte(os.Args[1]), &request); err != nil {
		panic(err)
	}
	read, known := readers[request.Reads]
	if !known {
		panic("nothing reads " + request.Reads)
	}
	output, input := json.NewEncoder(os.Stdout), bufio.NewScanner(os.Stdin)
	show := func(page any, unexpected []string) {
		must(output.Encode(line{Page: page, Unexpected: unexpected}))
		if !input.Scan() {
			os.Exit(0)
		}
	}
	err := read(request, show)
	if failure := failureOf(err); failure != nil {
		must(output.Encode(line{Failure: failure}))
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	must(output.Encode(line{End: true}))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
