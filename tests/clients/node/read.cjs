// Reads a log with the TypeScript SDK, for the tests in tests/clients.
//
// Arguments: the package (`cloudflare`, `cloudflare-v4`) and what to read, as JSON. Each page is a line on standard output,
// after which the program waits for a line on standard input: meanwhile the test changes the log.
"use strict";

const { createInterface } = require("node:readline");
const { Cloudflare, APIError } = require(process.argv[2]);

const request = JSON.parse(process.argv[3]);
const client = new Cloudflare({
  apiToken: request.token,
  baseURL: request.base_url,
  maxRetries: request.retries,
  timeout: 120_000,
});

const range = { since: request.since, before: request.before };
const order = request.direction ? { direction: request.direction } : {};
const excluded = request.not_result ? { action_result: { not: [request.not_result] } } : {};

const lists = {
  v2: () =>
    client.accounts.logs.audit.list({
      account_id: request.account,
      limit: request.per_page,
      ...range,
      ...order,
      ...excluded,
    }),
  v1: () =>
    client.auditLogs.list({ account_id: request.account, per_page: request.per_page, ...range, ...order }),
  organization: () =>
    client.organizations.logs.audit.list(request.organization, { limit: request.per_page, ...range }),
};

async function* pages() {
  if (request.reads === "history") {
    yield await client.accounts.logs.audit.history(request.record, {
      account_id: request.account,
      action_time: request.since,
      ...range,
    });
    return;
  }
  for await (const page of (await lists[request.reads]()).iterPages()) {
    if (page.result.length) {
      yield page.result;
    }
  }
}

async function main() {
  const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const write = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
  try {
    for await (const page of pages()) {
      write({ page });
      if ((await input.next()).done) {
        process.exit(0);
      }
    }
    write({ end: true });
  } catch (error) {
    if (!(error instanceof APIError)) {
      throw error;
    }
    const codes = error.errors.map((each) => each.code);
    write({ failure: { kind: error.constructor.name, status: error.status, codes } });
  }
  process.exit(0);
}

main();
