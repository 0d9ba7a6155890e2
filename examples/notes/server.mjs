// A service that knows nothing of audit logs: `node server.mjs`. A gateway in front of it names who called in `x-actor-email`.
import { createServer } from "node:http";

const server = createServer((request, response) => {
  let body = "";
  request.on("data", (chunk) => (body += chunk));
  request.on("end", () => {
    const note = { id: "n-1", title: JSON.parse(body || "{}").title ?? "untitled", secret_link: "s3cret" };
    response.writeHead(request.method === "POST" ? 201 : 200, { "content-type": "application/json", "x-actor-email": "ana@example.com" });
    response.end(JSON.stringify(note));
  });
});
server.listen(process.env.PORT ?? 3000, "127.0.0.1");
