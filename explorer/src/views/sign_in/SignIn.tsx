import { useSignal } from "@preact/signals";
import { ApiError } from "../../api/client.ts";
import { textOf } from "../../components/ErrorNotice.tsx";
import { hasExpired, signIn } from "../../session.ts";
import { strings } from "../../strings.ts";

export function SignIn() {
  const token = useSignal("");
  const error = useSignal("");
  const isBusy = useSignal(false);

  async function submit(event: Event): Promise<void> {
    event.preventDefault();
    isBusy.value = true;
    error.value = "";
    try {
      await signIn(token.value.trim());
    } catch (reason) {
      error.value = reason instanceof ApiError ? why(reason) : String(reason);
    } finally {
      isBusy.value = false;
    }
  }

  return (
    <main class="sign-in" id="content">
      <form onSubmit={submit}>
        <h1>{strings.signIn.title}</h1>
        <p>{hasExpired.value ? strings.signIn.expired : strings.signIn.lead}</p>
        <label>
          {strings.signIn.token}
          <input
            type="password"
            name="token"
            autocomplete="off"
            spellcheck={false}
            required
            autofocus
            maxLength={512}
            aria-describedby="sign-in-error"
            value={token}
            onInput={(event) => (token.value = event.currentTarget.value)}
          />
        </label>
        <p id="sign-in-error" class="field-error" role="alert">
          {error}
        </p>
        <button type="submit" class="primary" disabled={isBusy}>
          {isBusy.value ? strings.signIn.busy : strings.signIn.submit}
        </button>
        <p class="hint">
          {strings.signIn.hint} <code>{strings.signIn.command}</code> {strings.signIn.link}
        </p>
      </form>
    </main>
  );
}

function why(error: ApiError): string {
  if (error.status === 401) return strings.signIn.wrong;
  return error.status === 403 ? strings.signIn.permission : textOf(error);
}
