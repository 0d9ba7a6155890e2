// Records as they arrive: the newest are kept, and those that come while the tail is paused wait.

import { signal } from "@preact/signals";
import { logPath, urlOf, type Query } from "../../api/client.ts";
import { parseExactly } from "../../api/exactJson.ts";
import type { AuditRecord } from "../../api/types.ts";

const SHOWN_MAX = 500;

export class Tail {
  readonly shown = signal<AuditRecord[]>([]);
  readonly waiting = signal<AuditRecord[]>([]);
  readonly isPaused = signal(false);
  readonly isConnected = signal(true);
  private readonly source: EventSource;
  private readonly ids = new Set<string>();

  constructor(account: string, query: Query) {
    this.source = new EventSource(urlOf(logPath(account, "/tail"), query));
    this.source.onopen = () => (this.isConnected.value = true);
    this.source.onerror = () => (this.isConnected.value = false);
    this.source.onmessage = (event: MessageEvent<string>) => this.add(parseExactly(event.data) as AuditRecord);
  }

  pause(): void {
    this.isPaused.value = true;
  }

  resume(): void {
    this.isPaused.value = false;
    this.shown.value = [...this.waiting.value, ...this.shown.value].slice(0, SHOWN_MAX);
    this.waiting.value = [];
  }

  close(): void {
    this.source.close();
  }

  /** After a lost connection the last half minute is sent again, under the same ids. */
  private add(record: AuditRecord): void {
    if (this.ids.has(record.id)) return;
    this.ids.add(record.id);
    const [oldest] = this.ids;
    if (this.ids.size > 4 * SHOWN_MAX && oldest !== undefined) this.ids.delete(oldest);
    const list = this.isPaused.value ? this.waiting : this.shown;
    list.value = [record, ...list.value].slice(0, SHOWN_MAX);
  }
}
