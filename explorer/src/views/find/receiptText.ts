// The redaction receipt in words.

import type { AuditRecord, BodyReceipt } from "../../api/types.ts";
import { strings } from "../../strings.ts";

export function bodyText(receipt: BodyReceipt | undefined): string {
  const { kept, noBody, reasons } = strings.receipt;
  if (receipt?.reason != null) return reasons[receipt.reason] ?? receipt.reason;
  return receipt?.kept == null ? noBody : kept(receipt.kept);
}

/** What else the receipt says of the whole request, a sentence each. */
export function notes({ auditap }: AuditRecord): string[] {
  const { receipt } = auditap;
  const said: string[] = [];
  if (receipt.unmatched != null) said.push(strings.receipt.unmatched[receipt.unmatched] ?? receipt.unmatched);
  if (receipt.altered) said.push(strings.receipt.altered);
  if (receipt.refused?.length) said.push(`${strings.receipt.refused} ${receipt.refused.join(", ")}`);
  if (receipt.identity) said.push(strings.receipt.identity[receipt.identity.source] ?? receipt.identity.source);
  return said;
}
