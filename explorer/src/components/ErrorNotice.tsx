import type { ApiError } from "../api/client.ts";
import { mayPass } from "../loading.ts";
import { strings } from "../strings.ts";

export function ErrorNotice({ error, onRetry }: { error: ApiError | null; onRetry: () => void }) {
  if (error === null) return null;
  return (
    <div class="notice error" role="alert">
      <span>{textOf(error)}</span>
      {mayPass(error) && error.retryAfterS !== null && <span>{strings.errors.retryIn(error.retryAfterS)}</span>}
      <button type="button" onClick={onRetry}>
        {strings.errors.retry}
      </button>
    </div>
  );
}

export function textOf(error: ApiError): string {
  if (error.status === 0) return strings.errors.unreachable;
  if (error.status === 403) return strings.errors.denied;
  if (error.status === 429) return strings.errors.tooMany;
  if (error.status === 503) return strings.errors.unavailable;
  return strings.errors.other(error.status, error.message);
}
