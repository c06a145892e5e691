// Short notices at the lower edge, and the strip that tells of a lost connection.
import { $, fill, h, show } from "./dom.js";

const TOAST_MS = 4_500;
const TOASTS_MAX = 3;
const GRACE_MS = 800; // a reconnect that is quicker is not worth a word

/** Say something for a few seconds; `kind` "error" is red and interrupts a screen reader. */
export function toast(text, kind = "info") {
  const box = $("toasts");
  while (box.childElementCount >= TOASTS_MAX) box.firstElementChild.remove();
  const notice = h("p.toast", { data: { kind }, role: kind === "error" ? "alert" : null }, text);
  box.append(notice);
  setTimeout(() => notice.remove(), TOAST_MS);
}

/** Shows what the connection does: a dot always, a strip when it is gone for longer than a moment. */
export class ConnectionNotice {
  #timer = 0;

  update(state, { inCall, onSignIn }) {
    clearTimeout(this.#timer);
    $("connection-dot").dataset.state = state;
    $("connection-text").textContent = state;
    const strip = $("connection-strip");
    if (state === "online" || state === "idle") return show(strip, false);
    if (state === "closed") {
      strip.dataset.kind = "stopped";
      fill(
        strip,
        "You were signed out here.",
        h("button.button.button--quiet", { type: "button", onclick: onSignIn }, "Sign in again"),
      );
      return show(strip, true);
    }
    strip.dataset.kind = "waiting";
    this.#timer = setTimeout(() => {
      fill(
        strip,
        `The connection is gone. Coming back…${inCall ? " Your call goes on, and silence is not charged." : ""}`,
      );
      show(strip, true);
    }, GRACE_MS);
    return undefined;
  }
}
