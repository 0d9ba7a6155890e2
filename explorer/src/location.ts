// The page's state is in the fragment of its address, which no server and no proxy's log sees.

import { signal } from "@preact/signals";

export type View = "find" | "watch" | "trust";

export interface Place {
  view: View;
  params: URLSearchParams;
}

const VIEWS: readonly View[] = ["find", "watch", "trust"];

export const place = signal<Place>(placeIn(location.hash));

export function placeIn(hash: string): Place {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  return { view: VIEWS.find((each) => each === path) ?? "find", params: new URLSearchParams(query) };
}

export function hashOf({ view, params }: Place): string {
  const query = params.toString();
  return `#/${view}${query ? `?${query}` : ""}`;
}

export function startLocation(): void {
  addEventListener("hashchange", () => {
    place.value = placeIn(location.hash);
  });
  place.value = placeIn(location.hash);
}

/** Go to a place; `replace` keeps the browser's history as long as it is. */
export function go(next: Place, { replace = false } = {}): void {
  const hash = hashOf(next);
  if (hash === location.hash) return;
  history[replace ? "replaceState" : "pushState"](null, "", hash);
  place.value = next;
}

/** Change parameters of the current place. null removes one; a list repeats it. */
export function change(changes: Record<string, string | string[] | null>, options: { replace?: boolean } = {}): void {
  const params = new URLSearchParams(place.value.params);
  for (const [name, value] of Object.entries(changes)) {
    params.delete(name);
    for (const each of value === null ? [] : [value].flat()) params.append(name, each);
  }
  go({ view: place.value.view, params }, options);
}
