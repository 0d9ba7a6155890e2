/** Whether a key is for a field or a dialog, and not for the page's shortcuts. */
export function isTyping(event: KeyboardEvent): boolean {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return true;
  const target = event.target as HTMLElement;
  return target.matches("input, select, textarea, [contenteditable]") || target.closest("dialog.dialog") !== null;
}
