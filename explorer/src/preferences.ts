// What a person chose, kept in this browser: theme, time zone, saved views. Nothing of the log is kept.

import { effect, signal, type Signal } from "@preact/signals";

export type Theme = "system" | "light" | "dark";
export type Zone = "local" | "utc";

export interface SavedView {
  name: string;
  hash: string;
}

const SAVED_VIEWS_MAX = 100;

export const theme = kept<Theme>("auditap.theme", "system");
export const zone = kept<Zone>("auditap.zone", "local");
export const savedViews = kept<SavedView[]>("auditap.views", []);

effect(() => {
  document.documentElement.dataset["theme"] = theme.value;
});

export function saveView(view: SavedView): void {
  const others = savedViews.value.filter((each) => each.name !== view.name);
  savedViews.value = [...others, view].slice(-SAVED_VIEWS_MAX);
}

export function removeView(name: string): void {
  savedViews.value = savedViews.value.filter((each) => each.name !== name);
}

function kept<Value>(key: string, initial: Value): Signal<Value> {
  const found = signal(initial);
  try {
    const text = localStorage.getItem(key);
    if (text !== null) found.value = JSON.parse(text) as Value;
  } catch {
    // Storage is switched off, or holds something else: the initial value is as good.
  }
  effect(() => {
    try {
      localStorage.setItem(key, JSON.stringify(found.value));
    } catch {
      // The choice is lost with the page.
    }
  });
  return found;
}
