import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { strings } from "../strings.ts";

interface Properties {
  title: string;
  /** A drawer stands at the side and leaves the page in use; a dialog takes the focus until it is closed. */
  kind: "dialog" | "drawer";
  onClose: () => void;
  children: ComponentChildren;
}

export function Dialog({ title, kind, onClose, children }: Properties) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const opener = document.activeElement;
    if (kind === "dialog") element.current?.showModal();
    else element.current?.show();
    return () => {
      if (opener instanceof HTMLElement) opener.focus({ preventScroll: true });
    };
  }, []);
  return (
    <dialog
      ref={element}
      class={kind}
      aria-label={title}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
    >
      <header>
        <h2>{title}</h2>
        <button type="button" class="icon" aria-label={strings.record.close} onClick={onClose}>
          ✕
        </button>
      </header>
      <div class="content">{children}</div>
    </dialog>
  );
}
