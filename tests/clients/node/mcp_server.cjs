// Reads a log as the MCP server for audit logs does, for the tests in tests/clients.
//
// The server checks each answer with zod and drops a whole page for one value that does not fit. Its schema is written anew
// here, from what it accepts. Arguments and lines are those of read.cjs.
"use strict";

const { createInterface } = require("node:readline");
const { z } = require("zod");

const request = JSON.parse(process.argv[2]);

const text = z.string().optional();
const body = z.record(z.string(), z.unknown()).optional();
const entry = z.object({
  id: z.string().max(36),
  account: z.object({ id: z.string(), name: z.string() }),
  action: z.object({
    description: text,
    result: z.enum(["success", "failure", ""]),
    time: z.string().datetime(),
    type: z.enum(["create", "delete", "view", "update", "login"]),
  }),
  actor: z
    .object({
      id: text,
      // Older versions of the server do not know `api`.
      context: z.enum(["api_key", "api_token", "dash", "oauth", "origin_ca_key"]).optional(),
      email: z.string().email().optional(),
      ip_address: text,
      token_id: text,
      token_name: text,
      type: z.enum(["cloudflare_admin", "account", "user", "system"]).optional(),
    })
    .optional(),
  raw: z
    .object({ cf_ray_id: text, method: text, status_code: z.number().optional(), uri: text, user_agent: text })
    .optional(),
  resource: z
    .object({
      id: text,
      product: text,
      request: body,
      response: body,
      scope: z.union([z.string(), z.object({})]).optional(),
      type: text,
    })
    .optional(),
  zone: z.object({ id: text, name: text }).optional(),
});
const answer = z.object({
  success: z.literal(true),
  errors: z.array(z.object({ message: z.string() })).optional(),
  result: z.array(entry).optional(),
  result_info: z.object({ count: z.number(), cursor: z.string().optional() }),
});

async function page(cursor) {
  const query = new URLSearchParams({ since: request.since, before: request.before, limit: request.per_page });
  if (cursor) {
    query.set("cursor", cursor);
  }
  const response = await fetch(`${request.base_url}/accounts/${request.account}/logs/audit?${query}`, {
    headers: {
      Authorization: `Bearer ${request.token}`,
      "Content-Type": "application/json",
      "portal-version": "2",
    },
  });
  return response.ok ? answer.parse(await response.json()) : { failure: { kind: "Error", status: response.status } };
}

async function main() {
  const input = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
  const write = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
  let cursor;
  do {
    const { failure, result, result_info } = await page(cursor);
    if (failure) {
      write({ failure: { ...failure, codes: [] } });
      process.exit(0);
    }
    write({ page: result });
    if ((await input.next()).done) {
      process.exit(0);
    }
    cursor = result_info.cursor;
  } while (cursor);
  write({ end: true });
  process.exit(0);
}

main();
