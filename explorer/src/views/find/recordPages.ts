// The records of a view, read page by page as the list is scrolled. Only the pages around the visible rows are kept in memory:
// others are read again by their cursor.

import { signal } from "@preact/signals";
import { ApiError, get, isAbort, logPath } from "../../api/client.ts";
import type { AuditRecord, ListInfo } from "../../api/types.ts";
import { mayPass } from "../../loading.ts";

const PAGE_RECORDS = 200;
const PAGES_KEPT = 40;
const RETRY_S = 5;

interface Page {
  start: number;
  count: number;
  cursor: string | null;
  records: AuditRecord[] | null;
}

export class RecordPages {
  /** Raised whenever rows have come or gone. */
  readonly version = signal(0);
  readonly error = signal<ApiError | null>(null);
  readonly isLoading = signal(false);
  readonly completeBefore = signal<string | null>(null);
  private readonly pages: Page[] = [];
  private next: string | null = null;
  private hasEnded = false;
  private wanted: [number, number] = [0, 0];
  private readonly controller = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly account: string,
    private readonly query: [string, string][],
    private readonly fetchPage: typeof get = get,
  ) {}

  /** How many rows are known. */
  get count(): number {
    const last = this.pages.at(-1);
    return last === undefined ? 0 : last.start + last.count;
  }

  get hasMore(): boolean {
    return !this.hasEnded;
  }

  row(index: number): AuditRecord | null {
    const page = this.pages[this.pageOf(index)];
    return page?.records?.[index - page.start] ?? null;
  }

  /** Say which rows are visible: they are read, and those far from them forgotten. */
  show(first: number, last: number): void {
    this.wanted = [first, last];
    void this.fill();
  }

  close(): void {
    this.controller.abort();
    clearTimeout(this.timer);
  }

  retry(): void {
    clearTimeout(this.timer);
    this.error.value = null;
    void this.fill();
  }

  private pageOf(index: number): number {
    let low = 0;
    let high = this.pages.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.pages[middle]?.start ?? 0) <= index) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  private async fill(): Promise<void> {
    if (this.isLoading.value || this.error.value !== null) return;
    this.isLoading.value = true;
    try {
      for (let task = this.task(); task !== null; task = this.task()) await task();
      this.forget();
    } catch (reason) {
      if (!isAbort(reason)) this.fail(reason);
    } finally {
      this.isLoading.value = false;
    }
  }

  private fail(reason: unknown): void {
    const error = reason instanceof ApiError ? reason : new ApiError(-1, "");
    this.error.value = error;
    if (mayPass(error)) this.timer = setTimeout(() => this.retry(), 1000 * (error.retryAfterS ?? RETRY_S));
  }

  /** What is to be read next for the visible rows, nothing if they are there. */
  private task(): (() => Promise<void>) | null {
    if (this.controller.signal.aborted) return null;
    const [first, last] = this.wanted;
    const missing = this.pages
      .slice(Math.max(0, this.pageOf(first)), this.pageOf(last) + 1)
      .find((page) => page.records === null);
    if (missing !== undefined) return () => this.readAgain(missing);
    return !this.hasEnded && last >= this.count - 1 ? () => this.readNext() : null;
  }

  private async readNext(): Promise<void> {
    const cursor = this.next;
    const { result, result_info: info } = await this.read(cursor);
    this.completeBefore.value = info.complete_before;
    this.next = info.cursor ?? null;
    this.hasEnded = this.next === null;
    // A page can be empty and have a cursor: the search goes on behind it.
    if (result.length > 0) this.pages.push({ start: this.count, count: result.length, cursor, records: result });
    this.version.value += 1;
  }

  private async readAgain(page: Page): Promise<void> {
    const { result } = await this.read(page.cursor);
    // Records that were stored since are not on it, so that rows stay where they are.
    page.records = result.slice(0, page.count);
    this.version.value += 1;
  }

  private read(cursor: string | null): Promise<{ result: AuditRecord[]; result_info: ListInfo }> {
    const query: [string, string][] = [...this.query, ["limit", String(PAGE_RECORDS)]];
    if (cursor !== null) query.push(["cursor", cursor]);
    return this.fetchPage<AuditRecord[], ListInfo>(logPath(this.account), query, this.controller.signal);
  }

  private forget(): void {
    const kept = this.pages.filter((page) => page.records !== null);
    const centre = this.pageOf(this.wanted[0]);
    kept
      .map((page) => ({ page, distance: Math.abs(this.pages.indexOf(page) - centre) }))
      .sort((a, b) => a.distance - b.distance)
      .slice(PAGES_KEPT)
      .forEach(({ page }) => (page.records = null));
  }
}
