import { strings } from "../strings.ts";
import { Line } from "./Text.tsx";

interface Properties {
  columns: Record<string, string>;
  rows: string[][];
  /** What to say where there are no rows. */
  empty: string;
}

export function Table({ columns, rows, empty }: Properties) {
  if (rows.length === 0) return <p class="empty">{empty}</p>;
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label={strings.list.label}>
      <table>
        <thead>
          <tr>
            {Object.entries(columns).map(([name, text]) => (
              <th key={name} scope="col">
                {text}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.join(" ")}>
              {row.map((value, at) => (
                <td key={at}>
                  <Line value={value} />
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
