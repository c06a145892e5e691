// Drives the built TypeScript client for tests/client/players.py: commands and answers are lines of JSON.
import { createInterface } from "node:readline";

import { Client } from "../../realtime/web/client/dist/talkmeter.js";
import { msgpack } from "../../realtime/web/client/dist/talkmeter-msgpack.js";

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
let client;

const commands = {
  open({ options, timeout_ms: timeoutMs }) {
    const { url, device_id: deviceId, codec, backoff } = options;
    const tokens = [options.token].flat();
    client = new Client({
      url,
      deviceId,
      token: Array.isArray(options.token) ? () => (tokens.length > 1 ? tokens.shift() : tokens[0]) : options.token,
      backoff: { baseMs: backoff.base_ms, capMs: backoff.cap_ms },
      ...(codec === "msgpack" ? { codec: msgpack } : {}),
    });
    client.on("*", (event) => say(event));
    return client.connect(timeoutMs);
  },
  request({ op, data, key, timeout_ms: timeoutMs }) {
    return client.request(op, data, { ...(key ? { key } : {}), ...(timeoutMs ? { timeoutMs } : {}) });
  },
  refresh: ({ token }) => client.refresh(token),
  drop: () => client.drop(),
  close: () => client.close(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { n, do: name, ...what } = JSON.parse(line);
  Promise.resolve()
    .then(() => commands[name](what))
    .then(
      (ok) => say({ n, ok: ok ?? {} }),
      (error) => {
        const { code, retryable, nextAction, closeCode, details, key } = error;
        const facts = { code, retryable, next_action: nextAction, close_code: closeCode, details, key };
        say({ n, error: { kind: error.constructor.name, message: String(error.message), ...facts } });
      },
    );
}
client?.close();
