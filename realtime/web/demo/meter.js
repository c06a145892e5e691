// The meter: coins left (the caller's) or earned (the host's), and a ring that empties over the paid pulse.
import { $, show } from "./dom.js";
import { clock, coins, shortPrice } from "./format.js";

const PAINT_MS = 100; // smooth enough for a ring, and nothing for a processor
const ROUND_UP_MS = 999; // what is left says 0:00 when nothing is left

export class Meter {
  #call = null;
  #coins = 0;
  #endsAtMs = 0;
  #shown = null;
  #timer = 0;

  constructor(app) {
    this.app = app;
  }

  start(call, wallet) {
    this.#shown = null;
    this.#endsAtMs = 0;
    this.update(call, wallet);
    clearInterval(this.#timer);
    this.#timer = setInterval(() => this.#paint(), PAINT_MS);
  }

  stop() {
    clearInterval(this.#timer);
    show($("low-balance"), false);
  }

  update(call, wallet) {
    this.#call = call;
    this.#coins = wallet?.coins ?? this.#coins;
    const caller = call.role === "caller";
    const number = caller ? this.#coins : (call.earned_coins ?? 0);
    if (this.#shown !== null && number !== this.#shown) this.#float(number - this.#shown);
    this.#shown = number;
    $("meter-number").textContent = number.toLocaleString();
    $("meter-unit").textContent = caller ? "coins left" : "coins earned";
    $("meter-total-label").textContent = caller ? "Spent" : `${call.peer.name} spent`;
    $("meter-total").textContent = coins(call.spent_coins);
    $("meter-price").textContent = shortPrice(call.price_coins, call.pulse_ms);
    show($("meter-left-row"), caller);
    this.#paint();
  }

  /** The coins last until `endsAtMs`; 0 takes the warning back. */
  warn(endsAtMs) {
    this.#endsAtMs = endsAtMs;
    this.#paint();
  }

  /** A top-up came: the warning goes if the coins now last beyond it. */
  toppedUp() {
    if (this.#endsAtMs && this.#lastsUntilMs() > this.#endsAtMs) this.warn(0);
  }

  /** When the coins will be used up at this price. */
  #lastsUntilMs() {
    const { funded_until_ms: funded, price_coins: each, pulse_ms: length } = this.#call;
    return funded + Math.floor(this.#coins / Math.max(1, each)) * length;
  }

  #paint() {
    const call = this.#call;
    const now = this.app.nowMs();
    const running = call.state === "connected" && call.funded_until_ms;
    const left = running ? call.funded_until_ms - now : 0;
    const part = Math.max(0, Math.min(1, left / call.pulse_ms));
    $("meter-arc").style.strokeDasharray = `${running ? Math.max(0.01, part * 100) : 0} 100`;
    $("meter").dataset.state = !running ? "waiting" : call.paused ? "paused" : this.#endsAtMs ? "low" : "running";
    $("meter-left").textContent = running ? clock(this.#lastsUntilMs() - now + ROUND_UP_MS) : "–";
    $("call-clock").textContent = call.connected_ms ? clock(now - call.connected_ms) : "0:00";
    this.#paintWarning(now);
  }

  #paintWarning(now) {
    const warned = this.#endsAtMs > 0 && this.#call.state === "connected";
    if (warned) {
      const caller = this.#call.role === "caller";
      // The caller knows the coins of this moment; the host was told once, and a gift may have gone since.
      $("low-balance-left").textContent = clock((caller ? this.#lastsUntilMs() : this.#endsAtMs) - now + ROUND_UP_MS);
      $("low-balance-text").textContent = caller ? "of talk left" : `until ${this.#call.peer.name}’s coins are used up`;
      show($("top-up"), caller);
    }
    show($("low-balance"), warned);
  }

  #float(change) {
    const float = $("meter-float");
    float.textContent = `${change > 0 ? "+" : "−"}${Math.abs(change)}`;
    float.classList.remove("is-on");
    void float.offsetWidth; // starts the animation anew
    float.classList.add("is-on");
  }
}
