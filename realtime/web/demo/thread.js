// One conversation: its messages in the server's order, what is being sent, who is typing, and what has been read.
import { fill, h, s } from "./dom.js";
import { toast } from "./notices.js";
import { trouble } from "./format.js";

const PAGE = 50;
const BODY_MAX = 2_000;
const TYPING_EVERY_MS = 2_500;
const TYPING_SHOWN_MS = 4_000;

export class Thread {
  #peer = null;
  #messages = new Map(); // by seq
  #notes = []; // what is no message: gifts
  #sending = [];
  #peerReadSeq = 0;
  #typedAtMs = 0;
  #typingTimer = 0;

  /** Build the thread in `root`; `app` gives `client` and `me`. */
  constructor(root, app) {
    this.app = app;
    this.list = h("ul.thread__list", { tabindex: "0", "aria-label": "Messages", data: { testid: "messages" } });
    this.below = h("p.thread__below", { role: "status" });
    this.input = h("input", {
      maxlength: BODY_MAX,
      placeholder: "Message",
      "aria-label": "Message",
      enterkeyhint: "send",
      autocomplete: "off",
      data: { testid: "message-input" },
    });
    const icon = s("svg", { viewBox: "0 0 24 24" }, s("path", { d: "M4 12h15M13 6l6 6-6 6" }));
    const button = h(
      "button.icon-button",
      { type: "submit", "aria-label": "Send", data: { testid: "message-send" } },
      icon,
    );
    const form = h("form.thread__form", { onsubmit: (event) => this.#submit(event) }, this.input, button);
    this.input.addEventListener("input", () => this.#typed());
    fill(root, this.list, this.below, form);
  }

  get peerId() {
    return this.#peer?.id ?? null;
  }

  /** Show the conversation with `peer`; null shows none. */
  async open(peer) {
    this.#peer = peer;
    this.#messages.clear();
    this.#notes = [];
    this.#sending = [];
    this.#peerReadSeq = 0;
    this.#render();
    if (!peer) return;
    try {
      const { messages } = await this.app.client.request("chat.history", { with: peer.id, limit: PAGE });
      if (this.peerId !== peer.id) return;
      for (const message of messages) this.#messages.set(message.seq, message);
      this.#render();
      this.#read();
    } catch (error) {
      toast(trouble(error), "error");
    }
  }

  /** A message of anybody; those of this conversation are shown. Returns whether it was. */
  take(message) {
    if (!this.peerId || (message.from !== this.peerId && message.to !== this.peerId)) return false;
    this.#messages.set(message.seq, message);
    if (message.from === this.peerId) this.#showTyping(false);
    this.#render();
    if (message.from === this.peerId) this.#read();
    return true;
  }

  /** Somebody is typing. */
  takeTyping(from) {
    if (from === this.peerId) this.#showTyping(true);
  }

  /** The other one has read up to `seq`. */
  takeRead({ with: peer, by, seq }) {
    if (peer !== this.peerId || by !== this.peerId) return;
    this.#peerReadSeq = Math.max(this.#peerReadSeq, seq);
    this.#renderBelow();
  }

  /** Add a line that is no message, as a gift. */
  note(text) {
    this.#notes.push({ text, after: this.#lastSeq });
    this.#render();
  }

  get visible() {
    return this.list.offsetParent !== null;
  }

  get #lastSeq() {
    return Math.max(0, ...this.#messages.keys());
  }

  async #submit(event) {
    event.preventDefault();
    const body = this.input.value.trim();
    if (!body || !this.#peer) return;
    this.input.value = "";
    this.#typedAtMs = 0;
    const sending = { body, to: this.#peer.id, failed: false };
    this.#sending.push(sending);
    this.#render();
    try {
      const { message } = await this.app.client.request("chat.send", { to: sending.to, kind: "text", body });
      this.#sending = this.#sending.filter((other) => other !== sending);
      if (!this.take(message)) this.#render();
    } catch (error) {
      sending.failed = true;
      this.#render();
      toast(trouble(error), "error");
    }
  }

  #typed() {
    if (!this.#peer || Date.now() - this.#typedAtMs < TYPING_EVERY_MS) return;
    this.#typedAtMs = Date.now();
    this.app.client.request("chat.typing", { with: this.#peer.id }).catch(() => undefined); // nothing is lost by it
  }

  #read() {
    const last = [...this.#messages.values()].filter((message) => message.from === this.peerId).at(-1);
    if (!last || !this.visible) return;
    this.app.client.request("chat.read", { with: this.peerId, seq: last.seq }).catch(() => undefined);
    this.app.onRead?.(this.peerId);
  }

  #showTyping(typing) {
    clearTimeout(this.#typingTimer);
    this.typing = typing;
    if (typing) this.#typingTimer = setTimeout(() => this.#showTyping(false), TYPING_SHOWN_MS);
    this.#renderBelow();
  }

  #render() {
    const atEnd = this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < 60;
    const ordered = [...this.#messages.values()].sort((a, b) => a.seq - b.seq);
    const lines = [];
    const notes = [...this.#notes];
    for (const message of ordered) {
      while (notes.length && notes[0].after < message.seq) lines.push(noteLine(notes.shift()));
      lines.push(this.#bubble(message.body, message.from !== this.peerId, "sent"));
    }
    lines.push(...notes.map(noteLine));
    for (const sending of this.#sending)
      lines.push(this.#bubble(sending.body, true, sending.failed ? "failed" : "sending"));
    const empty = this.#peer && h("li.thread__empty", {}, `Say hello to ${this.#peer.name}.`);
    fill(this.list, ...(lines.length ? lines : [empty]));
    if (atEnd) this.list.scrollTop = this.list.scrollHeight;
    this.#renderBelow();
  }

  #bubble(body, mine, state) {
    const said = state === "failed" ? [body, h("small", {}, " · not sent")] : [body];
    return h("li.bubble", { data: { mine, state, testid: "message" } }, ...said);
  }

  #renderBelow() {
    const last = [...this.#messages.values()].at(-1);
    const seen = last && last.from !== this.peerId && this.#peerReadSeq >= last.seq && !this.#sending.length;
    this.below.textContent = this.typing ? `${this.#peer?.name} is writing…` : seen ? "Read" : "";
  }
}

const noteLine = ({ text }) => h("li.bubble.bubble--note", {}, text);
