// Writes a digest of the sources beside the built files, by which a test finds files that are older than their sources.
import { createHash } from "node:crypto";
import { readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const roots = ["index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts", "src"];

function* filesBelow(path) {
  let entries;
  try {
    entries = readdirSync(path);
  } catch {
    yield path;
    return;
  }
  for (const name of entries.sort()) yield* filesBelow(join(path, name));
}

const digest = createHash("sha256");
for (const root of roots) {
  for (const path of filesBelow(root)) {
    digest.update(`${path}\0`);
    digest.update(readFileSync(path));
  }
}
writeFileSync("../log_api/static/sources.sha256", `${digest.digest("hex")}\n`);
