// A request whose result a view shows: the last one asked for wins, and what the API asks to retry is tried again.

import { signal, type Signal } from "@preact/signals";
import { ApiError, isAbort } from "./api/client.ts";

export interface Loading<Result> {
  readonly result: Signal<Result | null>;
  readonly error: Signal<ApiError | null>;
  readonly isBusy: Signal<boolean>;
  /** Ask for something new. What was asked for before is abandoned; its result stays until the new one is there. */
  load(request: (signal: AbortSignal) => Promise<Result>): void;
  /** Ask for the same once more. */
  again(): void;
}

const RETRY_S = 5;

export function loading<Result>(): Loading<Result> {
  const result = signal<Result | null>(null);
  const error = signal<ApiError | null>(null);
  const isBusy = signal(false);
  let controller = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let last: ((signal: AbortSignal) => Promise<Result>) | null = null;

  function load(request: (signal: AbortSignal) => Promise<Result>): void {
    last = request;
    controller.abort();
    clearTimeout(timer);
    const mine = (controller = new AbortController());
    isBusy.value = true;
    request(mine.signal).then(
      (found) => {
        if (controller !== mine) return;
        result.value = found;
        error.value = null;
        isBusy.value = false;
      },
      (reason: unknown) => {
        if (controller !== mine || isAbort(reason)) return;
        error.value = reason instanceof ApiError ? reason : new ApiError(-1, "");
        isBusy.value = false;
        if (mayPass(error.value)) timer = setTimeout(again, 1000 * (error.value.retryAfterS ?? RETRY_S));
      },
    );
  }

  function again(): void {
    if (last !== null) load(last);
  }

  return { result, error, isBusy, load, again };
}

/** Whether the same request may succeed later. */
export function mayPass(error: ApiError): boolean {
  return error.status === 0 || error.status === 429 || error.status >= 500;
}
