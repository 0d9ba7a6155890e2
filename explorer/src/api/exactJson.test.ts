import assert from "node:assert/strict";
import { test } from "node:test";
import { parseExactly } from "./exactJson.ts";

test("what JavaScript can hold is parsed as ever", () => {
  assert.deepEqual(parseExactly('{"a": [1, -2.5, "x", null, true]}'), { a: [1, -2.5, "x", null, true] });
});

// Node.js 20 does not pass the source of a number; browsers do.
const keepsSource = "rawJSON" in JSON;

test("a number that JavaScript would round is written as it was", { skip: !keepsSource }, () => {
  const text = '[12345678901234567890,1e400,1.0]';
  assert.equal(JSON.stringify(parseExactly(text)), text);
});
