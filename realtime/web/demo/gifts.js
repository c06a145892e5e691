// The gifts that can be sent, and how they fly.
import { $, fill, h } from "./dom.js";
import { coins, trouble } from "./format.js";
import { toast } from "./notices.js";

const FLOCK = 9;
const FLIGHT_MS = 4_000;

export class Gifts {
  #gifts = null;

  constructor(app) {
    this.app = app;
    this.dialog = $("gifts");
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  async open({ to, callId }) {
    try {
      this.#gifts ??= (await this.app.client.request("gift.list", {})).gifts;
    } catch (error) {
      return toast(trouble(error), "error");
    }
    $("gifts-title").textContent = `A gift for ${to.name}`;
    fill(
      $("gift-list"),
      ...this.#gifts.map((gift) =>
        h(
          "li",
          {},
          h(
            "button.gift",
            {
              type: "button",
              disabled: gift.price_coins > (this.app.wallet?.coins ?? 0),
              onclick: () => this.#send(gift, to, callId),
              data: { testid: `gift-${gift.gift_id}` },
            },
            h("span.gift__emoji", { aria: { hidden: "true" } }, gift.emoji),
            h("span.gift__name", {}, gift.name),
            h("span.gift__price", {}, coins(gift.price_coins)),
          ),
        ),
      ),
    );
    this.dialog.showModal();
    return undefined;
  }

  close() {
    this.dialog.close();
  }

  async #send(gift, to, callId) {
    this.dialog.close();
    try {
      const { wallet } = await this.app.client.request("gift.send", {
        to: to.id,
        gift_id: gift.gift_id,
        ...(callId ? { call_id: callId } : {}),
      });
      this.app.setWallet(wallet);
      this.app.giftSeen(gift, `You sent ${gift.emoji} ${gift.name}`, gift.price_coins);
    } catch (error) {
      toast(trouble(error), "error");
    }
  }
}

/** Let a gift rise over the picture. */
export function fly(emoji) {
  const rain = $("gift-rain");
  const flock = Array.from({ length: FLOCK }, (_, index) => {
    const bird = h("span", {}, emoji);
    bird.style.left = `${8 + (84 * index) / FLOCK + Math.random() * 6}%`;
    bird.style.animationDelay = `${Math.random() * 0.9}s`;
    return bird;
  });
  rain.append(...flock);
  setTimeout(() => flock.forEach((bird) => bird.remove()), FLIGHT_MS);
}
