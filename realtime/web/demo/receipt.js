// What a call came to, in words and in coins.
import { avatar } from "./avatar.js";
import { $, fill, h, show } from "./dom.js";
import { clock, coins, ending, price } from "./format.js";

const STRETCHES = { free: "Free", paused: "Paused, not charged", waived: "Waived: our delay" };

export class Receipt {
  constructor(app) {
    this.app = app;
    this.dialog = $("receipt");
    $("receipt-close").addEventListener("click", () => this.dialog.close());
  }

  show(call, receipt, giftCoins) {
    const [title, text] = ending(call);
    fill($("receipt-portrait"), avatar(call.peer));
    $("receipt-title").textContent = title;
    $("receipt-text").textContent = text;
    fill($("receipt-lines"), ...lines(call, receipt, giftCoins));
    show($("receipt-lines"), Boolean(receipt));
    const again = $("receipt-again");
    show(again, call.role === "caller");
    const poor = (this.app.wallet?.coins ?? 0) < call.price_coins;
    again.textContent = poor ? "Add 60 and call again" : "Call again";
    again.onclick = async () => {
      this.dialog.close();
      if (poor && !(await this.app.addCoins())) return;
      this.app.invite({ user: call.peer.id, name: call.peer.name }, call.media);
    };
    if (!this.dialog.open) this.dialog.showModal();
    $("receipt-close").focus();
  }
}

function lines(call, receipt, giftCoins) {
  if (!receipt) return [];
  const host = call.role === "host";
  const stretches = new Map();
  for (const { kind, from_ms: from, until_ms: until } of receipt.lines) {
    if (kind in STRETCHES) stretches.set(kind, (stretches.get(kind) ?? 0) + until - from);
  }
  return [
    line("With", call.peer.name),
    line("Talked", clock(receipt.talk_ms)),
    ...[...stretches].map(([kind, ms]) => line(STRETCHES[kind], clock(ms))),
    line("Price", price(receipt.price_coins, receipt.pulse_ms)),
    line("Charged", `${receipt.pulses} × ${coins(receipt.price_coins)}`),
    ...(receipt.refunds ?? []).map((refund) => line("Given back", coins(refund.coins))),
    host && line(`${call.peer.name} paid`, coins(receipt.spent_coins)),
    host && line("Platform’s part", `−${coins(receipt.fee_coins ?? 0)}`),
    giftCoins > 0 && line(host ? "From gifts" : "Gifts", coins(giftCoins)),
    host
      ? line("You earned", coins((receipt.earned_coins ?? 0) + giftCoins), true)
      : line("You paid", coins(receipt.spent_coins + giftCoins), true),
  ].filter(Boolean);
}

const line = (term, value, total = false) =>
  h(
    `div${total ? ".is-total" : ""}`,
    {},
    h("dt", {}, term),
    h("dd", total ? { data: { testid: "receipt-total" } } : {}, value),
  );
