// Times, numbers and the log's texts as people read them.

import { zone } from "./preferences.ts";

const LOCALE = navigator.language;

const formats = new Map<string, Intl.DateTimeFormat>();

function format(name: string, options: Intl.DateTimeFormatOptions): Intl.DateTimeFormat {
  const key = `${name} ${zone.value}`;
  let found = formats.get(key);
  if (found === undefined) {
    found = new Intl.DateTimeFormat(LOCALE, zone.value === "utc" ? { ...options, timeZone: "UTC" } : options);
    formats.set(key, found);
  }
  return found;
}

const DATE: Intl.DateTimeFormatOptions = { year: "numeric", month: "short", day: "numeric" };
const CLOCK: Intl.DateTimeFormatOptions = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };

export function date(at: string | number): string {
  return format("date", DATE).format(new Date(at));
}

export function clock(at: string | number): string {
  return format("clock", CLOCK).format(new Date(at));
}

export function dateAndTime(at: string | number): string {
  return format("both", { ...DATE, ...CLOCK }).format(new Date(at));
}

/** To the millisecond, with the zone's name, for a single record. */
export function exactTime(at: string | number): string {
  return format("exact", { ...DATE, ...CLOCK, fractionalSecondDigits: 3, timeZoneName: "short" }).format(new Date(at));
}

export function count(value: number): string {
  return new Intl.NumberFormat(LOCALE).format(value);
}

export function percent(part: number, whole: number): string {
  const digits = { style: "percent", maximumFractionDigits: part / whole < 0.1 ? 1 : 0 } as const;
  return whole === 0 ? "–" : new Intl.NumberFormat(LOCALE, digits).format(part / whole);
}

const STEPS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3_600],
  ["minute", 60],
  ["second", 1],
];

/** How long ago, in the largest unit that fits. */
export function ago(at: string | number, nowMs: number): string {
  const seconds = (new Date(at).getTime() - nowMs) / 1000;
  const [unit, length] = STEPS.find(([, each]) => Math.abs(seconds) >= each) ?? (["second", 1] as const);
  return new Intl.RelativeTimeFormat(LOCALE, { numeric: "auto", style: "short" }).format(Math.round(seconds / length), unit);
}

// Control characters, and those that change the direction of the text around them or cannot be seen.
const INVISIBLE = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\p{Cs}|[\u{e0000}-\u{e007f}]/gu;

/** Text with each invisible character as its code, so that a value cannot look like another one. */
export function visible(text: string): string {
  return text.replace(INVISIBLE, (each) =>
    each === "\n" || each === "\t" ? each : `\u2039U+${(each.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0")}\u203a`,
  );
}
