import assert from "node:assert/strict";
import { test } from "node:test";
import type { AuditRecord, Json } from "../../api/types.ts";
import { differences, flatten } from "./difference.ts";

function record(request?: Json, response?: Json): AuditRecord {
  const resource = { id: "r", product: "p", scope: null, type: "t" };
  return { resource: { ...resource, ...(request !== undefined && { request }), ...(response !== undefined && { response }) } } as AuditRecord;
}

test("pointers escape what RFC 6901 reserves", () => {
  assert.deepEqual([...flatten({ "a/b": { "~": 1 } }).keys()], ["/a~1b/~0"]);
});

test("empty objects and lists, null and false are values", () => {
  assert.deepEqual([...flatten({ a: {}, b: [], c: null, d: false })], [["/a", {}], ["/b", []], ["/c", null], ["/d", false]]);
});

test("what differs comes first, and a field that one record lacks is undefined there", () => {
  assert.deepEqual(differences(record({ a: 1, b: 2 }), record({ a: 1, b: 3 }, { c: 4 })), [
    { pointer: "/request/b", before: 2, after: 3 },
    { pointer: "/response/c", before: undefined, after: 4 },
    { pointer: "/request/a", before: 1, after: 1 },
  ]);
});
