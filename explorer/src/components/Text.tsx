import { useSignal } from "@preact/signals";
import { count, visible } from "../format.ts";
import { strings } from "../strings.ts";

const SHOWN_CHARACTERS = 2_000;

/** A value of the log: as text only, apart from the direction of the text around it, cut where it is very long. */
export function Text({ value, isWhole = false }: { value: string; isWhole?: boolean }) {
  const showsAll = useSignal(isWhole);
  const isCut = value.length > SHOWN_CHARACTERS && !showsAll.value;
  return (
    <>
      <bdi class="value">{visible(isCut ? value.slice(0, SHOWN_CHARACTERS) : value)}</bdi>
      {isCut && (
        <button type="button" class="link" onClick={() => (showsAll.value = true)}>
          {strings.record.showAll(count(value.length))}
        </button>
      )}
    </>
  );
}

/** A value in one line of a table, cut by its length and by the width of its cell. */
export function Line({ value }: { value: string }) {
  return <bdi class="line">{visible(value.slice(0, 300)).replaceAll(/\s+/g, " ")}</bdi>;
}
