import { useSignal } from "@preact/signals";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { AuditRecord } from "../../api/types.ts";
import { ErrorNotice } from "../../components/ErrorNotice.tsx";
import { Line } from "../../components/Text.tsx";
import { clock, count, date } from "../../format.ts";
import { isTyping } from "../../keyboard.ts";
import { strings } from "../../strings.ts";
import { actionText, actorText, resourceText } from "./recordText.ts";
import type { RecordPages } from "./recordPages.ts";

const ROW_PX = 32;
const OVERSCAN_ROWS = 12;

interface Properties {
  pages: RecordPages;
  selected: string | null;
  onOpen: (record: AuditRecord) => void;
}

/** The rows around the visible part of the list. All rows have one height, so their places follow from their numbers. */
export function RecordList({ pages, selected, onOpen }: Properties) {
  const element = useRef<HTMLDivElement>(null);
  const first = useSignal(0);
  const shown = useSignal(40);
  const active = useSignal(0);

  function measure(): void {
    const list = element.current;
    if (list === null) return;
    first.value = Math.max(0, Math.floor(list.scrollTop / ROW_PX) - OVERSCAN_ROWS);
    shown.value = Math.ceil(list.clientHeight / ROW_PX) + 2 * OVERSCAN_ROWS;
    pages.show(first.value, first.value + shown.value);
  }

  function activate(index: number): void {
    const list = element.current;
    if (list === null || pages.count === 0) return;
    active.value = Math.min(Math.max(index, 0), pages.count - 1);
    const top = active.value * ROW_PX;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW_PX > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_PX - list.clientHeight;
    measure();
  }

  useLayoutEffect(() => {
    const list = element.current;
    if (list === null) return;
    list.scrollTop = 0;
    active.value = 0;
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(list);
    return () => observer.disconnect();
  }, [pages]);

  useEffect(() => {
    function onKey(event: KeyboardEvent): void {
      if (isTyping(event)) return;
      if (event.key === "j" || event.key === "ArrowDown") activate(active.value + 1);
      else if (event.key === "k" || event.key === "ArrowUp") activate(active.value - 1);
      else if (event.key === "Enter" && !(event.target as HTMLElement).closest("button, a, summary")) open(active.value);
      else return;
      event.preventDefault();
      if (selected !== null && event.key !== "Enter") open(active.value);
    }
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, [pages, selected]);

  function open(index: number): void {
    const record = pages.row(index);
    if (record === null) return;
    active.value = index;
    onOpen(record);
  }

  void pages.version.value;
  const total = pages.count;
  const isEmpty = total === 0 && !pages.hasMore;
  const last = Math.min(total, first.value + shown.value);
  return (
    <section class="records" aria-label={strings.list.label}>
      <ErrorNotice error={pages.error.value} onRetry={() => pages.retry()} />
      <div
        ref={element}
        class="list"
        role="grid"
        aria-label={strings.list.label}
        aria-rowcount={pages.hasMore ? -1 : total + 1}
        aria-activedescendant={total > 0 ? `row-${active.value}` : undefined}
        tabIndex={0}
        onScroll={measure}
      >
        <div class="row head" role="row" aria-rowindex={1}>
          {Object.entries(strings.list.columns).map(([name, text]) => (
            <span key={name} role="columnheader" class={name}>
              {text}
            </span>
          ))}
        </div>
        <div class="body" role="presentation" style={{ height: `${total * ROW_PX}px` }}>
          {Array.from({ length: Math.max(0, last - first.value) }, (_, at) => {
            const index = first.value + at;
            const record = pages.row(index);
            return (
              <Row
                key={index}
                index={index}
                record={record}
                isActive={index === active.value}
                isOpen={record !== null && record.id === selected}
                onOpen={() => open(index)}
              />
            );
          })}
        </div>
        {isEmpty && (
          <div class="empty">
            <strong>{strings.list.empty}</strong>
            <span>{strings.list.emptyHint}</span>
          </div>
        )}
      </div>
      <p class="status" role="status">
        {pages.isLoading.value && total === 0 ? strings.list.loading : strings.list.loaded(count(total), pages.hasMore)}
      </p>
    </section>
  );
}

interface RowProperties {
  index: number;
  record: AuditRecord | null;
  isActive: boolean;
  isOpen: boolean;
  onOpen: () => void;
}

function Row({ index, record, isActive, isOpen, onOpen }: RowProperties) {
  const place = { transform: `translateY(${index * ROW_PX}px)` };
  if (record === null) {
    return <div class="row pending" role="row" aria-rowindex={index + 2} style={place} />;
  }
  const { action, actor } = record;
  return (
    <div
      id={`row-${index}`}
      class="row"
      role="row"
      aria-rowindex={index + 2}
      aria-selected={isOpen}
      data-active={isActive}
      style={place}
      onClick={onOpen}
    >
      <span role="gridcell" class="time">
        <span class="date">{date(action.time)}</span> {clock(action.time)}
      </span>
      <span role="gridcell" class="result">
        <span class={`tag ${action.result}`}>{strings.counts[action.result]}</span>
      </span>
      <span role="gridcell" class="actor">
        <Line value={actorText(record)} />
      </span>
      <span role="gridcell" class="action">
        <Line value={actionText(record)} />
      </span>
      <span role="gridcell" class="resource">
        <Line value={resourceText(record)} />
      </span>
      <span role="gridcell" class="from">
        <Line value={actor.ip_address ?? ""} />
      </span>
    </div>
  );
}
