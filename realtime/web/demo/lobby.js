// The lobby: the caller's list of hosts, kept by live diffs, and the host's own page with a status to choose.
import { avatar } from "./avatar.js";
import { $, fill, h, show } from "./dom.js";
import { coins, price, trouble } from "./format.js";
import { toast } from "./notices.js";

const STATES = {
  online: "Free to talk",
  busy: "In a call",
  away: "Away",
  dnd: "Does not want to be disturbed",
  offline: "Offline",
};
const STATUS_TEXTS = {
  online: ["You are online", "Callers see you. Keep this window open, and it will ring."],
  away: ["You are away", "Callers see that you are away, and cannot ring you."],
  dnd: ["Do not disturb", "Nobody can ring you until you are online again."],
};

export class Lobby {
  #hosts = new Map(); // cards of the directory by user
  #cards = new Map(); // their elements, and what they were made from
  #status = "online";

  constructor(app) {
    this.app = app;
    $("tag-filter").addEventListener("change", () => this.#renderHosts());
    for (const button of $("status-buttons").children) {
      button.addEventListener("click", () => this.setStatus(button.dataset.status));
    }
  }

  /** Come in, or come back after a loss: watch the hosts, or say the status again. */
  async enter() {
    const host = this.app.isHost;
    show($("caller-lobby"), !host);
    show($("host-lobby"), host);
    if (host) return this.setStatus(this.#status);
    const { hosts } = await this.app.client.request("hosts.watch", {});
    this.#hosts = new Map(hosts.map((card) => [card.user, card]));
    return this.#renderHosts();
  }

  takeDiff({ joins = [], leaves = [] }) {
    for (const id of leaves) {
      this.#hosts.delete(id);
      this.#cards.delete(id);
    }
    for (const card of joins) this.#hosts.set(card.user, card);
    this.#renderHosts();
  }

  async setStatus(status) {
    try {
      await this.app.client.request("presence.set", { status });
    } catch (error) {
      return toast(trouble(error), "error");
    }
    this.#status = status;
    const [title, text] = STATUS_TEXTS[status];
    $("studio-title").textContent = title;
    $("studio-text").textContent = text;
    document.querySelector(".studio").dataset.status = status;
    for (const button of $("status-buttons").children)
      button.setAttribute("aria-pressed", button.dataset.status === status);
    return undefined;
  }

  /** What a host sees of her own page. */
  showStudio({ me, who, wallet }) {
    fill($("studio-portrait"), avatar(me));
    $("my-price").textContent = price(who.price_coins, who.pulse_ms);
    this.showEarned(wallet);
  }

  showEarned(wallet) {
    $("my-earned").textContent = coins(wallet?.earned ?? 0);
  }

  #renderHosts() {
    const all = [...this.#hosts.values()].filter((card) => card.user !== this.app.me.id && card.status !== "offline");
    this.#renderFilter(all);
    const tag = $("tag-filter").value;
    const shown = all.filter((card) => !tag || card.tags.includes(tag)).sort(byFreeThenName);
    show($("no-hosts"), !shown.length);
    this.#place(shown);
  }

  /** Put the cards in order; those that have not changed stay as they are, and keep the focus. */
  #place(shown) {
    const list = $("hosts");
    const wanted = shown.map((card) => {
      const looks = JSON.stringify(card);
      const known = this.#cards.get(card.user);
      if (known?.looks === looks) return known.element;
      const element = this.#card(card);
      element.classList.toggle("is-new", !known);
      this.#cards.set(card.user, { looks, element });
      return element;
    });
    for (const element of [...list.children]) if (!wanted.includes(element)) element.remove();
    wanted.forEach(
      (element, index) => list.children[index] !== element && list.insertBefore(element, list.children[index] ?? null),
    );
  }

  #renderFilter(all) {
    const tags = [...new Set(all.flatMap((card) => card.tags))].sort();
    const select = $("tag-filter");
    const chosen = select.value;
    fill(select, h("option", { value: "" }, "anything"), ...tags.map((tag) => h("option", { value: tag }, tag)));
    select.value = tags.includes(chosen) ? chosen : "";
    show($("tag-filter-box"), tags.length > 1);
  }

  #card(card) {
    const peer = { id: card.user, name: card.name, avatar_url: card.avatar_url };
    const takes = (media) => !card.media?.length || card.media.includes(media);
    const call = (media, label, classes) =>
      takes(media) &&
      h(
        `button.button${classes}`,
        {
          type: "button",
          disabled: !card.bookable,
          onclick: () => this.app.invite(card, media),
          aria: { label: `${label} ${card.name}` },
          data: { testid: `call-${media}` },
        },
        label,
      );
    return h(
      "li.card.host",
      { data: { bookable: card.bookable, user: card.user, testid: "host" } },
      h("div.host__avatar", {}, avatar(peer), h("span.dot", {})),
      h(
        "div",
        {},
        h("p.host__name", {}, card.name),
        h("p.host__state", { data: { testid: "host-state" } }, STATES[card.status] ?? card.status),
      ),
      h(
        "div.host__tags",
        {},
        ...card.tags.map((tag) => h("span.tag", {}, tag)),
        ...card.languages.map((code) => h("span.tag", {}, language(code))),
      ),
      h(
        "p.host__price",
        {},
        h("span.coin", { aria: { hidden: "true" } }),
        h("strong", {}, price(card.price_coins, card.pulse_ms)),
      ),
      h(
        "div.host__actions",
        {},
        call("video", "Video call", ".button--main"),
        call("voice", "Voice", ""),
        h(
          "button.button",
          {
            type: "button",
            onclick: () => this.app.openChat(peer),
            aria: { label: `Message ${card.name}` },
            data: { testid: "message-host" },
          },
          "Chat",
        ),
      ),
    );
  }
}

const byFreeThenName = (a, b) => Number(b.bookable) - Number(a.bookable) || a.name.localeCompare(b.name);

function language(code) {
  try {
    return new Intl.DisplayNames(undefined, { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}
