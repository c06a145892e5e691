// The dialog of an incoming call: who, what it brings, how long it still rings. With sound.
import { avatar } from "./avatar.js";
import { $, fill } from "./dom.js";
import { price } from "./format.js";

export class Ring {
  #call = null;
  #timer = 0;

  constructor(app) {
    this.app = app;
    this.dialog = $("ring");
    $("ring-accept").addEventListener("click", () => this.#answer("accept"));
    $("ring-decline").addEventListener("click", () => this.#answer("decline"));
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault(); // Escape is no answer to a person; declining is a button
    });
  }

  get callId() {
    return this.#call?.call_id ?? null;
  }

  show(call) {
    const isNew = this.callId !== call.call_id;
    this.#call = call;
    if (!isNew) return;
    fill($("ring-portrait"), avatar(call.peer));
    $("ring-name").textContent = call.peer.name;
    $("ring-text").textContent =
      call.media === "video" ? "would like a video call with you" : "would like to talk with you";
    $("ring-price").textContent = price(call.price_coins, call.pulse_ms);
    document.title = `${call.peer.name} calls you`;
    this.dialog.showModal();
    $("ring-accept").focus();
    this.app.sound.ring();
    this.#countDown();
    this.#timer = setInterval(() => this.#countDown(), 200);
  }

  /** Stop ringing; only for `callId` when given. */
  hide(callId = this.callId) {
    if (!this.#call || callId !== this.callId) return;
    this.#call = null;
    clearInterval(this.#timer);
    this.app.sound.stop();
    this.dialog.close();
    document.title = "talkmeter";
  }

  #countDown() {
    const { ring_deadline_ms: deadline, created_ms: created } = this.#call;
    const left = Math.max(0, (deadline - this.app.nowMs()) / Math.max(1, deadline - created));
    $("ring-time").style.transform = `scaleX(${left})`;
  }

  #answer(what) {
    const call = this.#call;
    this.hide();
    if (call) this.app[what](call);
  }
}
