// Signing in by the development route, and what a window remembers so that a reload comes back as the same one.
import { Client } from "/client/talkmeter.js";

const REMEMBERED = "talkmeter-demo";

/** Ask the development server for a token; with coins it tops the wallet up to that many. */
export async function devToken(who) {
  const reply = await fetch("/dev/token", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(who),
  });
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok)
    throw new Error(answer.error?.message ?? "This server gives no development tokens: start it with --dev.");
  return answer;
}

/** A user id from a name: two windows with one name are two devices of one user. */
export function userId(name) {
  const plain = name
    .normalize("NFKD")
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-+|-+$/g, "");
  return plain || "guest";
}

/** What this window remembers: `{who, deviceId}`; a window that was opened from another one starts afresh. */
export const memory = {
  load: () => JSON.parse(sessionStorage.getItem(REMEMBERED) ?? "null"),
  save: (session) => sessionStorage.setItem(REMEMBERED, JSON.stringify(session)),
  clear: () => sessionStorage.removeItem(REMEMBERED),
};

/** A client that fetches its tokens from the development route; coins are given by the first one only. */
export function openClient({ who, deviceId }, firstToken) {
  let first = firstToken;
  const url = new URL("/v1/socket", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  const token = async () => {
    if (!first) return (await devToken({ user: who.user, name: who.name, host: who.host })).token;
    const { token: fresh } = first;
    first = null;
    return fresh;
  };
  const client = new Client({ url: url.href, token, deviceId, appVersion: "demo" });
  addEventListener("online", () => client.retryNow());
  return client;
}

/** A random name for this window's device. */
export function newDeviceId() {
  return `web-${Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
