import assert from "node:assert/strict";
import { test } from "node:test";
import { apiQuery, curlLine, rangeOf, stateIn, withValue } from "./query.ts";

const NOW_MS = Date.parse("2026-11-28T12:00:00Z");

test("an empty address means the last day of the first account", () => {
  const state = stateIn(new URLSearchParams(), "a1");
  assert.deepEqual(state, { account: "a1", preset: "24h", since: null, before: null, filters: [] });
  assert.deepEqual(rangeOf(state, NOW_MS), { sinceMs: NOW_MS - 86_400_000, beforeMs: NOW_MS });
});

test("an absolute range needs both of its ends", () => {
  const both = new URLSearchParams("since=2026-11-01T00:00:00Z&before=2026-11-02T00:00:00Z&range=7d");
  assert.equal(stateIn(both, "a").preset, null);
  assert.equal(stateIn(new URLSearchParams("since=2026-11-01T00:00:00Z"), "a").preset, "24h");
  assert.equal(stateIn(new URLSearchParams("since=x&before=y"), "a").preset, "24h");
});

test("filters and their negation are read and sent as the API names them", () => {
  const params = new URLSearchParams("actor_id=a&actor_id=b&action_type.not=view&unknown=1&raw_uri=%2Fa%26b");
  const { filters } = stateIn(params, "a");
  assert.deepEqual(filters, [
    { name: "actor_id", excluded: false, values: ["a", "b"] },
    { name: "action_type", excluded: true, values: ["view"] },
    { name: "raw_uri", excluded: false, values: ["/a&b"] },
  ]);
  assert.deepEqual(apiQuery({ sinceMs: 0, beforeMs: 1 }, filters).slice(2), [
    ["actor_id", "a"],
    ["actor_id", "b"],
    ["action_type.not", "view"],
    ["raw_uri", "/a&b"],
  ]);
});

test("including a value replaces others, excluding adds to them, and each leaves the opposite filter", () => {
  const filters = stateIn(new URLSearchParams("actor_id=a&actor_id.not=b&actor_id.not=c"), "").filters;
  assert.deepEqual(withValue(filters, "actor_id", "b", false), { actor_id: ["b"], "actor_id.not": ["c"] });
  assert.deepEqual(withValue(filters, "actor_id", "a", true), { "actor_id.not": ["b", "c", "a"], actor_id: null });
});

test("a curl line cannot leave its quotes", () => {
  const line = curlLine("http://h/x", [["raw_uri", "';rm -rf /;'$(x)"]]);
  assert.equal(line.split("'").length, 3);
});
