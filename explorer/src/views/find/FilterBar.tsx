import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { Line } from "../../components/Text.tsx";
import { isTyping } from "../../keyboard.ts";
import { change } from "../../location.ts";
import { strings } from "../../strings.ts";
import { CHOICES, FILTERS, keyOf, type FindState } from "./query.ts";

interface Properties {
  state: FindState;
  /** Values that occur, by filter, for suggestions. */
  suggestions: Record<string, string[]>;
}

export function FilterBar({ state, suggestions }: Properties) {
  const isAdding = useSignal(false);
  useEffect(() => {
    function onKey(event: KeyboardEvent): void {
      if (event.key !== "/" || isTyping(event)) return;
      event.preventDefault();
      isAdding.value = true;
    }
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);
  return (
    <div class="filters" role="group" aria-label={strings.filters.label}>
      {state.filters.map((filter) => {
        const name = strings.filters.names[filter.name] ?? filter.name;
        const text = `${name} ${filter.excluded ? strings.filters.isNot : strings.filters.is} ${filter.values.join(", ")}`;
        return (
          <span key={keyOf(filter)} class="chip" data-excluded={filter.excluded}>
            <Line value={text} />
            <button type="button" class="icon" aria-label={strings.filters.remove(text.slice(0, 200))} onClick={() => change({ [keyOf(filter)]: null })}>
              ✕
            </button>
          </span>
        );
      })}
      {isAdding.value ? (
        <NewFilter state={state} suggestions={suggestions} onDone={() => (isAdding.value = false)} />
      ) : (
        <button type="button" onClick={() => (isAdding.value = true)}>
          + {strings.filters.add}
        </button>
      )}
      {state.filters.length > 1 && (
        <button type="button" class="link" onClick={() => change(Object.fromEntries(state.filters.map((each) => [keyOf(each), null])))}>
          {strings.filters.clear}
        </button>
      )}
    </div>
  );
}

function NewFilter({ state, suggestions, onDone }: Properties & { onDone: () => void }) {
  const name = useSignal<string>(FILTERS[0]);
  const isExcluded = useSignal(false);
  const text = useSignal("");
  const field = useRef<HTMLSelectElement>(null);
  useEffect(() => field.current?.focus(), []);

  function add(event: Event): void {
    event.preventDefault();
    const values = text.value.split(",").map((each) => each.trim()).filter(Boolean);
    const filter = { name: name.value, excluded: isExcluded.value };
    const known = state.filters.find((each) => each.name === filter.name && each.excluded === filter.excluded)?.values ?? [];
    change({ [keyOf({ ...filter, values })]: [...new Set([...known, ...values])] });
    onDone();
  }

  const offered = CHOICES[name.value] ?? suggestions[name.value] ?? [];
  return (
    <form
      class="new-filter"
      onSubmit={add}
      onKeyDown={(event) => {
        if (event.key === "Escape") onDone();
      }}
    >
      <label>
        <span class="visually-hidden">{strings.filters.field}</span>
        <select ref={field} value={name} onChange={(event) => (name.value = event.currentTarget.value)}>
          {FILTERS.map((each) => (
            <option key={each} value={each}>
              {strings.filters.names[each]}
            </option>
          ))}
        </select>
      </label>
      <label>
        <span class="visually-hidden">{strings.filters.relation}</span>
        <select value={isExcluded.value ? "not" : "is"} onChange={(event) => (isExcluded.value = event.currentTarget.value === "not")}>
          <option value="is">{strings.filters.is}</option>
          <option value="not">{strings.filters.isNot}</option>
        </select>
      </label>
      <label>
        <span class="visually-hidden">{strings.filters.values}</span>
        <input
          list="filter-values"
          required
          maxLength={2_000}
          autocomplete="off"
          spellcheck={false}
          placeholder={strings.filters.value}
          value={text}
          onInput={(event) => (text.value = event.currentTarget.value)}
        />
      </label>
      <datalist id="filter-values">
        {offered.map((each) => (
          <option key={each} value={each} />
        ))}
      </datalist>
      <button type="submit" class="primary">
        {strings.filters.apply}
      </button>
      <button type="button" onClick={onDone}>
        {strings.filters.cancel}
      </button>
    </form>
  );
}
