import { signal } from "@preact/signals";

const SHOWN_MS = 4_000;
const current = signal("");
let timer: ReturnType<typeof setTimeout> | undefined;

/** Show a short message for some seconds; screen readers read it. */
export function toast(text: string): void {
  current.value = text;
  clearTimeout(timer);
  timer = setTimeout(() => (current.value = ""), SHOWN_MS);
}

export function Toast() {
  return (
    <div class="toast" role="status" aria-live="polite" data-shown={current.value !== ""}>
      {current.value}
    </div>
  );
}

export async function copy(text: string, message: string): Promise<void> {
  await navigator.clipboard.writeText(text);
  toast(message);
}
