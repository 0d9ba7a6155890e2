// Requests to the log API, with the session's cookie.

import { parseExactly } from "./exactJson.ts";
import type { Envelope } from "./types.ts";

export class ApiError extends Error {
  /** An error response; `status` 0: no response at all. `retryAfterS`: when the API says that it may succeed. */
  constructor(
    readonly status: number,
    message: string,
    readonly retryAfterS: number | null = null,
  ) {
    super(message);
  }
}

export type Query = Iterable<[string, string]>;

const place = document.querySelector<HTMLMetaElement>('meta[name="auditap-api"]')?.content ?? "";
/** The API's address as this page reaches it, whatever path prefix a proxy adds. */
export const apiUrl = new URL(place.startsWith("__") ? "client/v4" : place, new URL("./", location.href.split("#")[0]))
  .href.replace(/\/$/, "");

let onSignedOut = (): void => {};

/** Call `handler` whenever the API says that there is no session. */
export function whenSignedOut(handler: () => void): void {
  onSignedOut = handler;
}

export function urlOf(path: string, query: Query = []): string {
  const text = new URLSearchParams([...query]).toString();
  return apiUrl + path + (text ? `?${text}` : "");
}

/** The path of an account's log, or of every account's for "-". */
export function logPath(account: string, path = ""): string {
  return `/accounts/${encodeURIComponent(account)}/logs/audit${path}`;
}

export async function get<Result, Info = undefined>(
  path: string,
  query: Query = [],
  signal?: AbortSignal,
): Promise<Envelope<Result, Info>> {
  return send("GET", path, query, signal === undefined ? {} : { signal });
}

export async function send<Result, Info = undefined>(
  method: string,
  path: string,
  query: Query = [],
  init: RequestInit = {},
): Promise<Envelope<Result, Info>> {
  const headers = new Headers(init.headers);
  headers.set("X-Auditap-Request", "1");
  let response: Response;
  try {
    response = await fetch(urlOf(path, query), { ...init, method, headers, credentials: "same-origin" });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError(0, "");
  }
  const body = await response.text().then(parseExactly).catch(() => null);
  if (response.ok && body !== null) return body as Envelope<Result, Info>;
  if (response.status === 401 && path !== "/session") onSignedOut();
  throw new ApiError(response.status, messageIn(body), Number(response.headers.get("Retry-After")) || null);
}

function messageIn(body: unknown): string {
  const errors = (body as { errors?: { message?: string }[] } | null)?.errors;
  return errors?.[0]?.message ?? "";
}

/** Whether a request failed because another one took its place. */
export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
