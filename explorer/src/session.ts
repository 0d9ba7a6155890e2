// Who is signed in, and for which accounts.

import { signal } from "@preact/signals";
import { ApiError, get, send, whenSignedOut } from "./api/client.ts";
import type { Account, Session } from "./api/types.ts";

/** undefined: not known yet; null: signed out. */
export const session = signal<Session | null | undefined>(undefined);
export const accounts = signal<Account[]>([]);
/** Whether a session ended while the page was open: the page keeps its state and asks for the token. */
export const hasExpired = signal(false);
/** Why the first request failed, while nothing is known of the session. */
export const startError = signal<ApiError | null>(null);

const SIGN_IN = "#sign-in=";

whenSignedOut(() => {
  if (session.value) hasExpired.value = true;
  session.value = null;
});

/** Find the session of the cookie, or begin one by the link's code. */
export async function resumeSession(): Promise<void> {
  const code = location.hash.startsWith(SIGN_IN) ? decodeURIComponent(location.hash.slice(SIGN_IN.length)) : null;
  // At once, so that the code is neither in the history nor in a copied address.
  if (code !== null) history.replaceState(null, "", `${location.pathname}${location.search}#/find`);
  startError.value = null;
  try {
    if (code !== null) await signIn(code);
    else await enter(await get<Session>("/session"));
  } catch (error) {
    if (error instanceof ApiError && error.status !== 401) startError.value = error;
    else session.value = null;
  }
}

/** Exchange a token or a link's code for a session. Raises ApiError. */
export async function signIn(token: string): Promise<void> {
  const headers = { Authorization: `Bearer ${token}` };
  await enter(await send<Session>("POST", "/session", [], { headers }));
}

export async function signOut(): Promise<void> {
  await send("DELETE", "/session");
  hasExpired.value = false;
  session.value = null;
}

async function enter(found: { result: Session }): Promise<void> {
  accounts.value = (await get<Account[]>("/accounts", [["per_page", "1000"]])).result;
  hasExpired.value = false;
  session.value = found.result;
}

export function may(permission: string): boolean {
  return session.value?.token.permissions.includes(permission) ?? false;
}
