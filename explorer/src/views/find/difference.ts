// The recorded content of two records of a resource, field by field.

import { isNumberAsWritten } from "../../api/exactJson.ts";
import type { AuditRecord, Json } from "../../api/types.ts";

export interface Difference {
  pointer: string;
  before: Json | undefined;
  after: Json | undefined;
}

/** Every value below a JSON text by its JSON Pointer (RFC 6901). An empty object or list is a value of its own. */
export function flatten(value: Json | undefined, pointer = "", found = new Map<string, Json>()): Map<string, Json> {
  if (value === undefined) return found;
  if (value === null || typeof value !== "object" || isNumberAsWritten(value) || Object.keys(value).length === 0) {
    found.set(pointer, value);
    return found;
  }
  for (const [name, child] of Object.entries(value)) {
    flatten(child, `${pointer}/${name.replaceAll("~", "~0").replaceAll("/", "~1")}`, found);
  }
  return found;
}

/** All fields that either record has, those that differ first. */
export function differences(before: AuditRecord | null, after: AuditRecord): Difference[] {
  const old = before === null ? new Map<string, Json>() : contentOf(before);
  const now = contentOf(after);
  const pointers = [...new Set([...now.keys(), ...old.keys()])];
  const all = pointers.map((pointer) => ({ pointer, before: old.get(pointer), after: now.get(pointer) }));
  return [...all.filter(isChange), ...all.filter((each) => !isChange(each))];
}

export function isChange({ before, after }: Difference): boolean {
  return JSON.stringify(before) !== JSON.stringify(after);
}

function contentOf({ resource }: AuditRecord): Map<string, Json> {
  const content: Json = {};
  if (resource.request !== undefined) content["request"] = resource.request;
  if (resource.response !== undefined) content["response"] = resource.response;
  return flatten(Object.keys(content).length ? content : undefined);
}
