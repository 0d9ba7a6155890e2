// The frame around every view: navigation, settings, sign-in, toasts and the keyboard's shortcuts.

import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { apiUrl } from "./api/client.ts";
import { Dialog } from "./components/Dialog.tsx";
import { ErrorNotice } from "./components/ErrorNotice.tsx";
import { Toast } from "./components/toasts.tsx";
import { isTyping } from "./keyboard.ts";
import { change, go, hashOf, place, type View } from "./location.ts";
import { theme, zone, type Theme, type Zone } from "./preferences.ts";
import { accounts, resumeSession, session, signOut, startError } from "./session.ts";
import { strings } from "./strings.ts";
import { FindView } from "./views/find/FindView.tsx";
import { ALL_ACCOUNTS, stateIn } from "./views/find/query.ts";
import { SignIn } from "./views/sign_in/SignIn.tsx";
import { TrustView } from "./views/trust/TrustView.tsx";
import { WatchView } from "./views/watch/WatchView.tsx";

const VIEWS: View[] = ["find", "watch", "trust"];
const CONTENT = { find: FindView, watch: WatchView, trust: TrustView };

/** The account that the address names, or else the first that the token may read. */
export function currentAccount(): string {
  const [first] = accounts.value;
  return stateIn(place.value.params, first?.id ?? ALL_ACCOUNTS).account;
}

export function Shell() {
  const showsKeys = useSignal(false);
  useEffect(() => {
    function onKey(event: KeyboardEvent): void {
      if (isTyping(event)) return;
      const view = VIEWS[Number(event.key) - 1];
      if (event.key === "?") showsKeys.value = true;
      else if (view !== undefined) show(view);
    }
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);

  if (startError.value) {
    return (
      <main class="sign-in" id="content">
        <ErrorNotice error={startError.value} onRetry={() => void resumeSession()} />
      </main>
    );
  }
  if (session.value === undefined) return null;
  if (session.value === null) return <SignIn />;
  const Content = CONTENT[place.value.view];
  return (
    <>
      <a class="skip" href="#content" onClick={focusContent}>
        {strings.nav.skip}
      </a>
      <Header onKeys={() => (showsKeys.value = true)} />
      <main id="content" tabIndex={-1}>
        <Content key={place.value.view} />
      </main>
      {showsKeys.value && <Keys onClose={() => (showsKeys.value = false)} />}
      <Toast />
    </>
  );
}

/** Go to another view, with the same account and time range. */
function show(view: View): void {
  go({ view, params: sharedParams() });
}

function sharedParams(): URLSearchParams {
  const shared = ["account", "range", "since", "before"];
  return new URLSearchParams([...place.value.params].filter(([name]) => shared.includes(name)));
}

// The fragment is the page's state, so a link to an element would change it.
function focusContent(event: Event): void {
  event.preventDefault();
  document.getElementById("content")?.focus();
}

function Header({ onKeys }: { onKeys: () => void }) {
  return (
    <header class="top">
      <span class="brand">{strings.product}</span>
      <nav aria-label={strings.nav.label}>
        {VIEWS.map((view) => (
          <a
            key={view}
            href={hashOf({ view, params: sharedParams() })}
            aria-current={place.value.view === view ? "page" : undefined}
          >
            {strings.nav[view]}
          </a>
        ))}
        <a href={`${apiUrl}/docs`}>{strings.nav.docs}</a>
      </nav>
      <AccountChoice />
      <Settings onKeys={onKeys} />
    </header>
  );
}

function AccountChoice() {
  const chosen = currentAccount();
  const listed = accounts.value.some(({ id }) => id === chosen) || chosen === ALL_ACCOUNTS;
  return (
    <label class="account">
      <span class="visually-hidden">{strings.settings.account}</span>
      <select value={chosen} onChange={(event) => change({ account: event.currentTarget.value })}>
        {!listed && <option value={chosen}>{chosen}</option>}
        {accounts.value.map(({ id, name }) => (
          <option key={id} value={id}>
            {name}
          </option>
        ))}
        <option value={ALL_ACCOUNTS}>{strings.settings.allAccounts}</option>
      </select>
    </label>
  );
}

function Settings({ onKeys }: { onKeys: () => void }) {
  const name = session.value?.token.name ?? "";
  return (
    <details class="menu" onKeyDown={closeByEscape}>
      <summary>{strings.settings.label}</summary>
      <div class="panel">
        <label>
          {strings.settings.theme}
          <select value={theme} onChange={(event) => (theme.value = event.currentTarget.value as Theme)}>
            {Object.entries(strings.settings.themes).map(([value, text]) => (
              <option value={value}>{text}</option>
            ))}
          </select>
        </label>
        <label>
          {strings.settings.zone}
          <select value={zone} onChange={(event) => (zone.value = event.currentTarget.value as Zone)}>
            {Object.entries(strings.settings.zones).map(([value, text]) => (
              <option value={value}>{text}</option>
            ))}
          </select>
        </label>
        <button type="button" onClick={onKeys}>
          {strings.keyboard.title}
        </button>
        <p class="hint">{strings.signIn.as(name)}</p>
        <button type="button" onClick={() => void signOut()}>
          {strings.signIn.out}
        </button>
      </div>
    </details>
  );
}

export function closeByEscape(event: KeyboardEvent): void {
  const menu = event.currentTarget as HTMLDetailsElement;
  if (event.key !== "Escape" || !menu.open) return;
  event.stopPropagation();
  menu.open = false;
  menu.querySelector("summary")?.focus();
}

function Keys({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title={strings.keyboard.title} kind="dialog" onClose={onClose}>
      <dl class="keys">
        {Object.entries(strings.keyboard.keys).map(([keys, text]) => (
          <div key={keys}>
            <dt>
              <kbd>{keys}</kbd>
            </dt>
            <dd>{text}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
