// A record in the words of a row.

import type { AuditRecord } from "../../api/types.ts";
import { strings } from "../../strings.ts";

export function actorText({ actor, auditap }: AuditRecord): string {
  return actor.email ?? auditap.actor_email ?? actor.id ?? actor.token_name ?? actor.type ?? strings.list.unknownActor;
}

export function actionText({ action, raw, resource }: AuditRecord): string {
  if (action.description) return action.description;
  if (raw.method && raw.uri) return `${raw.method} ${raw.uri}`;
  return [action.type, resource.type].filter(Boolean).join(" ");
}

export function resourceText({ resource }: AuditRecord): string {
  return [resource.product, resource.type, resource.id].filter(Boolean).join(" / ");
}
