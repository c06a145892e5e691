// The lobby's side: conversations with their unread counts, one of them opened, and the calls so far.
import { avatar } from "./avatar.js";
import { $, fill, h, show } from "./dom.js";
import { clock, coins, ending, when } from "./format.js";
import { Thread } from "./thread.js";

const ROWS = 20;

export class Inbox {
  #conversations = new Map(); // by peer id

  constructor(app) {
    this.app = app;
    this.thread = new Thread(document.querySelector('[data-thread="lobby"]'), app);
    $("lobby-chat-back").addEventListener("click", () => this.close());
  }

  async refresh() {
    const [{ conversations }, { calls }] = await Promise.all([
      this.app.client.request("chat.conversations", { limit: ROWS }),
      this.app.client.request("call.history", { limit: ROWS }),
    ]);
    this.#conversations = new Map(conversations.map((conversation) => [conversation.with.id, conversation]));
    this.#renderConversations();
    this.#renderHistory(calls);
  }

  /** Open the conversation with somebody. */
  open(peer) {
    show($("lobby-chat"), true);
    $("lobby-chat-title").textContent = peer.name;
    show($("inbox"), false);
    this.thread.open(peer);
    this.thread.input.focus();
  }

  close() {
    this.thread.open(null);
    show($("lobby-chat"), false);
    show($("inbox"), true);
  }

  /** A new message: first in the list, and unread unless it is on the screen. */
  take(message, shown) {
    const mine = message.from === this.app.me.id;
    const id = mine ? message.to : message.from;
    const known = this.#conversations.get(id);
    if (!known) return void this.refresh().catch(() => undefined); // whose name we do not know yet
    if (message.seq <= known.last.seq) return undefined;
    const unread = shown ? 0 : known.unread + (mine ? 0 : 1);
    this.#conversations.set(id, { ...known, last: message, unread });
    return this.#renderConversations();
  }

  /** Everything of this one has been read. */
  read(id) {
    const known = this.#conversations.get(id);
    if (!known?.unread) return;
    this.#conversations.set(id, { ...known, unread: 0 });
    this.#renderConversations();
  }

  #renderConversations() {
    const sorted = [...this.#conversations.values()].sort((a, b) => b.last.ts_ms - a.last.ts_ms);
    show($("no-conversations"), !sorted.length);
    fill(
      $("conversations"),
      ...sorted.map(({ with: peer, last, unread }) =>
        row({
          peer,
          text: `${last.from === peer.id ? "" : "You: "}${last.body}`,
          end: unread ? h("span.badge", { "aria-label": `${unread} unread` }, String(unread)) : "",
          onclick: () => this.open(peer),
        }),
      ),
    );
  }

  #renderHistory(calls) {
    const ended = calls.filter((call) => call.state === "ended");
    show($("no-history"), !ended.length);
    fill(
      $("history"),
      ...ended.map((call) => {
        const talked = call.connected_ms ? clock(call.ended_ms - call.connected_ms) : ending(call)[0];
        const amount = call.role === "caller" ? -call.spent_coins : (call.earned_coins ?? 0);
        return row({
          peer: call.peer,
          text: `${when(call.created_ms)} · ${talked}`,
          end: amount ? `${amount > 0 ? "+" : "−"}${coins(Math.abs(amount))}` : "",
          onclick: () => this.app.showReceipt(call),
        });
      }),
    );
  }
}

function row({ peer, text, end, onclick }) {
  return h(
    "li",
    {},
    h(
      "button.row",
      { type: "button", onclick },
      h("span.row__avatar", {}, avatar(peer)),
      h("span", {}, h("span.row__name", {}, peer.name), h("span.row__text", {}, text)),
      h("span.row__end", {}, end),
    ),
  );
}
