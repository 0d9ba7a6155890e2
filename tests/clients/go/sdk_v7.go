package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cloudflare/cloudflare-go/v7/accounts"
	"github.com/cloudflare/cloudflare-go/v7/audit_logs"
	"github.com/cloudflare/cloudflare-go/v7/option"
	"github.com/cloudflare/cloudflare-go/v7/organizations"
)

// The package at the SDK's root would compile the services of every product, which takes minutes. Its client hands its
// options to these services and does nothing else.
func options(request Request) []option.RequestOption {
	return []option.RequestOption{
		option.WithBaseURL(request.BaseURL + "/"),
		option.WithAPIToken(request.Token),
		option.WithMaxRetries(request.Retries),
	}
}

func readV2(request Request, show Show) error {
	var params accounts.LogAuditListParams
	params.AccountID.Value, params.AccountID.Present = request.Account, true
	params.Since.Value, params.Since.Present = moment(request.Since), true
	params.Before.Value, params.Before.Present = moment(request.Before), true
	params.Limit.Value, params.Limit.Present = float64(request.PerPage), true
	params.Direction.Value = accounts.LogAuditListParamsDirection(request.Direction)
	params.Direction.Present = request.Direction != ""
	if request.NotResult != "" {
		params.ActionResult.Present = true
		params.ActionResult.Value.Not.Present = true
		params.ActionResult.Value.Not.Value = []accounts.LogAuditListParamsActionResultNot{
			accounts.LogAuditListParamsActionResultNot(request.NotResult),
		}
	}
	service := accounts.NewLogAuditService(options(request)...)
	page, err := service.List(context.Background(), params)
	for err == nil && page != nil {
		show(page.Result, unexpected(page.Result))
		page, err = page.GetNextPage()
	}
	return err
}

func readOrganization(request Request, show Show) error {
	var params organizations.LogAuditListParams
	params.Since.Value, params.Since.Present = moment(request.Since), true
	params.Before.Value, params.Before.Present = moment(request.Before), true
	params.Limit.Value, params.Limit.Present = float64(request.PerPage), true
	service := organizations.NewLogAuditService(options(request)...)
	page, err := service.List(context.Background(), request.Organization, params)
	for err == nil && page != nil {
		show(page.Result, unexpected(page.Result))
		page, err = page.GetNextPage()
	}
	return err
}

func readHistory(request Request, show Show) error {
	var params accounts.LogAuditHistoryParams
	params.AccountID.Value, params.AccountID.Present = request.Account, true
	params.ActionTime.Value, params.ActionTime.Present = moment(request.Since), true
	params.Since.Value, params.Since.Present = moment(request.Since), true
	params.Before.Value, params.Before.Present = moment(request.Before), true
	service := accounts.NewLogAuditService(options(request)...)
	records, err := service.History(context.Background(), request.Record, params)
	if err == nil {
		show(*records, unexpected(*records))
	}
	return err
}

func readV1(request Request, show Show) error {
	var params audit_logs.AuditLogListParams
	params.AccountID.Value, params.AccountID.Present = request.Account, true
	params.PerPage.Value, params.PerPage.Present = float64(request.PerPage), true
	params.Direction.Value = audit_logs.AuditLogListParamsDirection(request.Direction)
	params.Direction.Present = request.Direction != ""
	chosen := options(request)
	for name, value := range map[string]string{"since": request.Since, "before": request.Before} {
		if value != "" {
			chosen = append(chosen, option.WithQuery(name, value))
		}
	}
	page, err := audit_logs.NewAuditLogService(chosen...).List(context.Background(), params)
	for err == nil && page != nil && len(page.Result) > 0 {
		show(page.Result, unexpected(page.Result))
		page, err = page.GetNextPage()
	}
	return err
}

func failureOfV7(err error) *Failure {
	var failed *accounts.Error
	if !errors.As(err, &failed) {
		return nil
	}
	failure := &Failure{Kind: fmt.Sprintf("%T", failed), Status: failed.StatusCode}
	for _, each := range failed.Errors {
		failure.Codes = append(failure.Codes, int(each.Code))
	}
	return failure
}

func moment(text string) time.Time {
	at, err := time.Parse(time.RFC3339, text)
	must(err)
	return at
}
