// The menus of a view: exports of exactly its records, and views that were saved.

import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { logPath, urlOf, type Query } from "../../api/client.ts";
import { copy } from "../../components/toasts.tsx";
import { isTyping } from "../../keyboard.ts";
import { place, placeIn, go, hashOf } from "../../location.ts";
import { removeView, savedViews, saveView } from "../../preferences.ts";
import { closeByEscape } from "../../Shell.tsx";
import { strings } from "../../strings.ts";
import { curlLine } from "./query.ts";

const FORMATS = ["csv", "ndjson"] as const;
const VIEW_NAME_CHARACTERS_MAX = 80;

export function ExportMenu({ account, query }: { account: string; query: [string, string][] }) {
  const menu = useRef<HTMLDetailsElement>(null);
  const path = logPath(account, "/export");
  const inFormat = (format: string): Query => [...query, ["format", format]];
  useEffect(() => {
    function onKey(event: KeyboardEvent): void {
      if (event.key !== "e" || isTyping(event) || menu.current === null) return;
      event.preventDefault();
      menu.current.open = true;
      menu.current.querySelector("a")?.focus();
    }
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  return (
    <details class="menu" ref={menu} onKeyDown={closeByEscape}>
      <summary>{strings.exports.label}</summary>
      <div class="panel">
        <p class="hint">{strings.exports.hint}</p>
        {FORMATS.map((format) => (
          <a key={format} class="button" href={urlOf(path, inFormat(format))} download={`audit-log.${format}`}>
            {strings.exports[format]}
          </a>
        ))}
        <button type="button" onClick={() => void copy(curlLine(urlOf(path), inFormat("ndjson")), strings.exports.copied)}>
          {strings.exports.copy}
        </button>
      </div>
    </details>
  );
}

export function SavedViewsMenu() {
  const name = useSignal("");
  function save(event: Event): void {
    event.preventDefault();
    saveView({ name: name.value.trim(), hash: hashOf(place.value) });
    name.value = "";
  }
  return (
    <details class="menu" onKeyDown={closeByEscape}>
      <summary>{strings.views.label}</summary>
      <div class="panel">
        {savedViews.value.length === 0 && <p class="hint">{strings.views.none}</p>}
        <ul class="saved">
          {savedViews.value.map((view) => (
            <li key={view.name}>
              <button type="button" class="link" onClick={() => go(placeIn(view.hash))}>
                {view.name}
              </button>
              <button type="button" class="icon" aria-label={strings.views.remove(view.name)} onClick={() => removeView(view.name)}>
                ✕
              </button>
            </li>
          ))}
        </ul>
        <form onSubmit={save}>
          <label>
            {strings.views.name}
            <input required maxLength={VIEW_NAME_CHARACTERS_MAX} value={name} onInput={(event) => (name.value = event.currentTarget.value)} />
          </label>
          <button type="submit">{strings.views.save}</button>
        </form>
      </div>
    </details>
  );
}
