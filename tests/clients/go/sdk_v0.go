package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/cloudflare/cloudflare-go"
)

// The SDK before version 2 hands out single pages. Its users count them, until one is empty.

func clientV0(request Request) (*cloudflare.API, error) {
	chosen := []cloudflare.Option{
		cloudflare.BaseURL(request.BaseURL),
		cloudflare.UsingRetryPolicy(request.Retries, 1, 1),
		cloudflare.UsingRateLimit(1000),
	}
	if request.Key != "" {
		return cloudflare.New(request.Key, request.Email, chosen...)
	}
	return cloudflare.NewWithAPIToken(request.Token, chosen...)
}

func readV0(request Request, show Show) error {
	api, err := clientV0(request)
	must(err)
	return eachPage(request, show, func(filter cloudflare.AuditLogFilter) (cloudflare.AuditLogResponse, error) {
		return api.GetOrganizationAuditLogs(context.Background(), request.Account, filter)
	})
}

func readV0User(request Request, show Show) error {
	api, err := clientV0(request)
	must(err)
	return eachPage(request, show, func(filter cloudflare.AuditLogFilter) (cloudflare.AuditLogResponse, error) {
		return api.GetUserAuditLogs(context.Background(), filter)
	})
}

func eachPage(
	request Request, show Show, get func(cloudflare.AuditLogFilter) (cloudflare.AuditLogResponse, error),
) error {
	filter := cloudflare.AuditLogFilter{
		Since: request.Since, Before: request.Before, Direction: request.Direction, PerPage: request.PerPage,
	}
	for filter.Page = 1; ; filter.Page++ {
		page, err := get(filter)
		if err != nil || len(page.Result) == 0 {
			return err
		}
		if page.ResultInfo.Page != filter.Page || page.ResultInfo.Count != len(page.Result) {
			return fmt.Errorf("page %d says %+v", filter.Page, page.ResultInfo)
		}
		show(page.Result, nil)
	}
}

func failureOfV0(err error) *Failure {
	var denied *cloudflare.AuthenticationError
	var unauthorized *cloudflare.AuthorizationError
	var absent *cloudflare.NotFoundError
	var bad *cloudflare.RequestError
	switch {
	case errors.As(err, &denied):
		return &Failure{Kind: "AuthenticationError", Status: 403, Codes: denied.ErrorCodes()}
	case errors.As(err, &unauthorized):
		return &Failure{Kind: "AuthorizationError", Status: 401, Codes: unauthorized.ErrorCodes()}
	case errors.As(err, &absent):
		return &Failure{Kind: "NotFoundError", Status: 404, Codes: absent.ErrorCodes()}
	case errors.As(err, &bad):
		return &Failure{Kind: "RequestError", Status: 400, Codes: bad.ErrorCodes()}
	}
	return nil
}

func failureOf(err error) *Failure {
	if failure := failureOfV7(err); failure != nil {
		return failure
	}
	return failureOfV0(err)
}
