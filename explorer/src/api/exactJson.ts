// JSON without a change of its numbers: the log keeps them as they were written, and JavaScript would round some.

interface ExactJson {
  rawJSON?(text: string): unknown;
  parse(text: string, reviver: (name: string, value: unknown, context?: { source?: string }) => unknown): unknown;
}

const json = JSON as unknown as ExactJson;

/** Parse JSON. A number that JavaScript cannot hold becomes an object that JSON.stringify writes as it was. */
export function parseExactly(text: string): unknown {
  return json.parse(text, (_name, value, context) => {
    const source = context?.source;
    const isRounded = typeof value === "number" && source !== undefined && String(value) !== source;
    return isRounded && json.rawJSON ? json.rawJSON(source) : value;
  });
}
