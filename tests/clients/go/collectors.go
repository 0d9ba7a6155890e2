package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// How collectors in Go poll, written anew from what they send and keep.

// scrape asks who it is, then reads the pages since the last run until one is empty. It authenticates with the key of a
// user and takes the order and size of pages as they come.
func scrape(request Request, show Show) error {
	api, err := clientV0(request)
	must(err)
	user, err := api.UserDetails(context.Background())
	if err != nil {
		return err
	}
	if user.Email != request.Email {
		return fmt.Errorf("the log API takes the key for another user's")
	}
	return readV0(Request{
		BaseURL: request.BaseURL, Email: request.Email, Key: request.Key,
		Account: request.Account, Since: request.Since,
	}, show)
}

type action struct {
	Type   string    `json:"type"`
	Result string    `json:"result"`
	Time   time.Time `json:"time"`
}

// entry has the types of the collector: a value of another one ends the poll.
type entry struct {
	ID      string `json:"id"`
	Account struct {
		ID   string `json:"id"`
		Name string `json:"name"`
	} `json:"account"`
	Action action `json:"action"`
	Actor  struct {
		ID        string `json:"id"`
		Email     string `json:"email"`
		IPAddress string `json:"ip_address"`
		Type      string `json:"type"`
		Context   string `json:"context"`
	} `json:"actor"`
	Raw struct {
		StatusCode int    `json:"status_code"`
		RayID      string `json:"cf_ray_id"`
		URI        string `json:"uri"`
	} `json:"raw"`
	Resource struct {
		ID       string         `json:"id"`
		Product  string         `json:"product"`
		Request  map[string]any `json:"request"`
		Response map[string]any `json:"response"`
		Scope    string         `json:"scope"`
		Type     string         `json:"type"`
	} `json:"resource"`
}

type info struct {
	Count  int    `json:"count"`
	Cursor string `json:"cursor"`
}

type answer struct {
	Success    bool    `json:"success"`
	Result     []entry `json:"result"`
	ResultInfo info    `json:"result_info"`
}

// pollBySeconds keeps the time of the newest record as its watermark, in whole seconds, and the ids that it has seen. Each
// poll reads from the watermark on and shows what is new. It polls for as long as the test lets it.
func pollBySeconds(request Request, show Show) error {
	watermark, seen := moment(request.Since), map[string]bool{}
	for {
		fresh := []entry{}
		query := url.Values{
			"since": {watermark.Format(time.RFC3339)}, "before": {request.Before},
			"direction": {"asc"}, "limit": {fmt.Sprint(request.PerPage)},
		}
		for more := true; more; {
			var page answer
			if err := get(request, "/logs/audit", query, &page); err != nil {
				return err
			}
			for _, each := range page.Result {
				if !seen[each.ID] {
					seen[each.ID] = true
					fresh = append(fresh, each)
				}
				if each.Action.Time.After(watermark) {
					watermark = each.Action.Time.Truncate(time.Second)
				}
			}
			query.Set("cursor", page.ResultInfo.Cursor)
			more = page.ResultInfo.Cursor != ""
		}
		show(fresh, nil)
	}
}

type entryV1 struct {
	ID     string `json:"id"`
	Action struct {
		Type   string `json:"type"`
		Result bool   `json:"result"`
	} `json:"action"`
	Actor struct {
		ID, Email, IP, Type string
	} `json:"actor"`
	When     time.Time         `json:"when"`
	Metadata map[string]any    `json:"metadata"`
	Resource map[string]string `json:"resource"`
}

// pollOnePage reads one page of v1 a poll, since the newest record of the poll before, in whole seconds. It drops what it
// has seen, as its database does.
func pollOnePage(request Request, show Show) error {
	newest, seen := moment(request.Since), map[string]bool{}
	for {
		var page struct {
			Success bool      `json:"success"`
			Errors  []any     `json:"errors"`
			Result  []entryV1 `json:"result"`
		}
		query := url.Values{"since": {newest.Format(time.RFC3339)}, "per_page": {fmt.Sprint(request.PerPage)}}
		if err := get(request, "/audit_logs", query, &page); err != nil {
			return err
		}
		fresh := []entryV1{}
		for _, each := range page.Result {
			if !seen[each.ID] {
				seen[each.ID] = true
				fresh = append(fresh, each)
			}
			if each.When.After(newest) {
				newest = each.When
			}
		}
		show(fresh, nil)
	}
}

func get(request Request, path string, query url.Values, into any) error {
	target := fmt.Sprintf("%s/accounts/%s%s?%s", request.BaseURL, request.Account, path, query.Encode())
	asked, err := http.NewRequest(http.MethodGet, target, nil)
	must(err)
	asked.Header.Set("Authorization", "Bearer "+request.Token)
	asked.Header.Set("Content-Type", "application/json")
	answered, err := http.DefaultClient.Do(asked)
	if err != nil {
		return err
	}
	defer answered.Body.Close()
	if answered.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", answered.StatusCode)
	}
	return json.NewDecoder(answered.Body).Decode(into)
}
