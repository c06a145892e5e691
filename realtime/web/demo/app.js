// The demo's beginning: signs in, and hands the server's events to the parts of the page. Parts know the app, not each other.
import { avatar } from "./avatar.js";
import { CallScreen } from "./call.js";
import { $, fill, show } from "./dom.js";
import { trouble } from "./format.js";
import { Inbox } from "./inbox.js";
import { Lobby } from "./lobby.js";
import { closeDevices, openDevices } from "./media.js";
import { ConnectionNotice, toast } from "./notices.js";
import { Receipt } from "./receipt.js";
import { Ring } from "./ring.js";
import { devToken, memory, newDeviceId, openClient, userId } from "./session.js";
import { Sound } from "./sound.js";

const TOP_UP_COINS = 60;
const SCREENS = ["welcome", "lobby", "call"]; // ids of the sections; one is shown
const NAMES = {
  caller: ["Ravi", "Mira", "Tomás", "Jonas", "Aiko", "Sam"],
  host: ["Asha", "Lena", "Priya", "Noor", "Ines", "Maya"],
};

class App {
  client = null;
  me = null;
  who = null;
  wallet = null;
  sound = new Sound();
  #notice = new ConnectionNotice();
  #endedCalls = new Set();

  constructor() {
    this.lobby = new Lobby(this);
    this.inbox = new Inbox(this);
    this.ring = new Ring(this);
    this.receipt = new Receipt(this);
    this.callScreen = new CallScreen(this);
    $("sign-out").addEventListener("click", () => this.signOut());
    $("add-coins").addEventListener("click", () => this.addCoins());
    addEventListener("pointerdown", () => this.sound.unlock(), { once: true });
  }

  get isHost() {
    return Boolean(this.who?.host);
  }

  /** The server's clock. */
  nowMs() {
    return Date.now() + (this.client?.serverAheadMs ?? 0);
  }

  screen(name) {
    document.body.dataset.screen = name;
    for (const id of SCREENS) show($(id), id === name);
    show($("session-bar"), name !== "welcome");
    if (name === "lobby" && this.client) this.inbox.refresh().catch((error) => toast(trouble(error), "error"));
  }

  // -- coming in and going out

  async signIn(who, deviceId = newDeviceId()) {
    const first = await devToken(who);
    this.who = who;
    memory.save({ who: { ...who, coins: 0 }, deviceId });
    this.client = openClient({ who, deviceId }, first);
    this.#listen();
    await this.client.connect();
  }

  async signOut() {
    memory.clear();
    try {
      if (this.callScreen.call) this.callScreen.end();
      await this.client?.signOut();
    } catch {
      this.client?.close(); // the server hears of it when the socket closes
    }
    location.assign(location.pathname);
  }

  #listen() {
    const { client } = this;
    const on = (name, take) => client.on(name, ({ data }) => take(data));
    on("client.state", ({ state }) => this.#stateChanged(state));
    on("client.signed_in", ({ user, snapshot }) => this.#signedIn(user, snapshot));
    on("hosts.diff", (diff) => this.lobby.takeDiff(diff));
    on("call.incoming", ({ call }) => this.#incoming(call));
    on("call.answered_elsewhere", ({ call }) => this.#answeredElsewhere(call));
    for (const name of ["call.ringing", "call.accepted", "call.connected", "call.suspended", "call.resumed"]) {
      on(name, ({ call }) => this.callScreen.update(call));
    }
    on("call.charged", ({ call, wallet }) => {
      this.setWallet(wallet);
      this.callScreen.update(call, this.wallet);
    });
    on("call.low_balance", ({ call, ends_at_ms: endsAtMs }) => {
      this.callScreen.update(call);
      this.callScreen.meter.warn(endsAtMs);
    });
    on("call.extended", ({ call }) => {
      this.callScreen.update(call);
      this.callScreen.meter.warn(0);
    });
    on("call.signal", (signal) => this.callScreen.signal(signal));
    on("call.ended", ({ call, receipt }) => this.ended(call, receipt));
    on("wallet.changed", ({ wallet }) => this.setWallet(wallet));
    on("gift.received", ({ from, gift, wallet, earned_coins: earned }) => {
      this.setWallet(wallet);
      this.giftSeen(gift, `${from.name} sent you ${gift.emoji} ${gift.name}`, earned);
    });
    on("chat.message", ({ message }) => this.#message(message));
    on("chat.read", (read) => this.#threads((thread) => thread.takeRead(read)));
    on("chat.typing", ({ from }) => this.#threads((thread) => thread.takeTyping(from)));
  }

  #threads(each) {
    each(this.inbox.thread);
    each(this.callScreen.thread);
  }

  #stateChanged(state) {
    this.#notice.update(state, { inCall: Boolean(this.callScreen.call), onSignIn: () => location.reload() });
    if (state === "online") this.#enter().catch((error) => toast(trouble(error), "error"));
    if (state === "closed") this.ring.hide();
  }

  #signedIn(user, snapshot) {
    this.me = user;
    fill($("my-avatar"), avatar(user));
    $("my-name").textContent = user.name;
    show($("add-coins"), !this.isHost);
    if (snapshot?.wallet) this.setWallet(snapshot.wallet);
  }

  /** After each sign-in: what is not told by events, and the call that is going on. */
  async #enter() {
    if (document.body.dataset.screen === "welcome") this.screen("lobby");
    if (this.isHost) this.lobby.showStudio(this);
    await this.lobby.enter();
    const [{ wallet }, { calls }] = await Promise.all([
      this.client.request("wallet.get", {}),
      this.client.request("call.active", {}),
    ]);
    this.setWallet(wallet);
    this.#reconcile(calls);
  }

  /** Bring the page in line with the calls that the server knows of. */
  #reconcile(calls) {
    const shown = this.callScreen.call;
    if (shown && !calls.some((call) => call.call_id === shown.call_id)) this.#endedMeanwhile(shown);
    for (const call of calls) {
      const calling = call.state === "inviting" || call.state === "ringing";
      if (call.role === "host" && calling) this.#incoming(call);
      else if (shown?.call_id === call.call_id) this.callScreen.update(call);
      else if (!call.accepted_device || call.accepted_device === memory.load()?.deviceId || call.role === "caller")
        this.callScreen.start(call, { resumed: true });
    }
  }

  async #endedMeanwhile(call) {
    const { call: now } = await this.client.request("call.get", { call_id: call.call_id });
    if (now.state === "ended") this.ended(now);
  }

  setWallet(wallet) {
    if (!wallet || (this.wallet && wallet.v < this.wallet.v)) return;
    this.wallet = wallet;
    const shown = this.isHost ? wallet.earned : wallet.coins;
    $("wallet-coins").textContent = shown.toLocaleString();
    $("wallet-unit").textContent = this.isHost ? "earned" : shown === 1 ? "coin" : "coins";
    this.lobby.showEarned(wallet);
    const { call, meter } = this.callScreen;
    if (call) {
      meter.update(call, wallet);
      meter.toppedUp();
    }
  }

  /** Give coins, as --dev allows; returns whether that worked. */
  async addCoins() {
    try {
      await devToken({ user: this.who.user, coins: (this.wallet?.coins ?? 0) + TOP_UP_COINS });
      this.setWallet((await this.client.request("wallet.get", {})).wallet);
      toast(`${TOP_UP_COINS} coins were added.`);
      return true;
    } catch (error) {
      toast(trouble(error), "error");
      return false;
    }
  }

  // -- calls

  async invite(host, media) {
    this.sound.unlock();
    if (this.callScreen.call) return;
    const opened = await openDevices(media === "video"); // before it rings, so that nobody waits for a permission
    try {
      const { call } = await this.client.request("call.invite", { host: host.user, media });
      await this.callScreen.start(call, { stream: opened });
    } catch (error) {
      closeDevices(opened.stream);
      toast(trouble(error), "error");
    }
  }

  async accept(call) {
    this.sound.unlock();
    try {
      const { call: accepted } = await this.client.request("call.accept", { call_id: call.call_id });
      await this.callScreen.start(accepted);
    } catch (error) {
      toast(trouble(error), "error");
    }
  }

  async decline(call) {
    try {
      await this.client.request("call.decline", { call_id: call.call_id });
    } catch (error) {
      if (error.code !== "call_over") toast(trouble(error), "error");
    }
  }

  #incoming(call) {
    if (this.callScreen.call || this.#endedCalls.has(call.call_id) || call.state === "ended") return;
    this.ring.show(call);
  }

  #answeredElsewhere(call) {
    if (this.ring.callId !== call.call_id) return;
    this.ring.hide(call.call_id);
    toast("Answered on your other device.");
  }

  /** A call is over: told by its event, and by the answer to hanging up, whichever comes first. */
  ended(call, receipt = null) {
    const isNew = !this.#endedCalls.has(call.call_id);
    this.#endedCalls.add(call.call_id);
    if (this.ring.callId === call.call_id) {
      this.ring.hide(call.call_id);
      if (call.reason !== "declined") toast(`You missed a call of ${call.peer.name}.`);
    }
    if (this.callScreen.call?.call_id === call.call_id) {
      const { giftCoins } = this.callScreen;
      this.callScreen.end();
      this.screen("lobby");
      this.showReceipt(call, receipt, giftCoins);
    } else if (isNew && document.body.dataset.screen === "lobby") {
      this.inbox.refresh().catch(() => undefined);
    }
  }

  /** The receipt of a call that is over; fetched when it was connected and is not at hand. */
  async showReceipt(call, receipt = null, giftCoins = 0) {
    let known = receipt;
    try {
      if (!known && call.connected_ms)
        ({ receipt: known } = await this.client.request("call.receipt", { call_id: call.call_id }));
    } catch (error) {
      toast(trouble(error), "error");
    }
    this.receipt.show(call, known, giftCoins);
  }

  // -- chat and gifts

  openChat(peer) {
    this.inbox.open(peer);
  }

  #message(message) {
    const inCall = this.callScreen.thread.take(message);
    const inLobby = this.inbox.thread.take(message);
    const shown = (inCall && this.callScreen.thread.visible) || (inLobby && this.inbox.thread.visible);
    this.inbox.take(message, shown);
    if (message.from !== this.me.id && !shown) toast("You have a new message.");
    if (message.from !== this.me.id) this.sound.blip();
  }

  onRead(peerId) {
    this.inbox.read(peerId);
  }

  giftSeen(gift, text, giftCoins) {
    this.sound.chime();
    if (this.callScreen.call) this.callScreen.gift(gift, text, giftCoins);
    else toast(text);
  }
}

// -- the welcome page

function roleChanged(form) {
  const role = form.elements.role.value;
  for (const part of form.querySelectorAll("[data-for]")) {
    show(part, part.dataset.for === role);
    for (const input of part.querySelectorAll("input, select")) input.disabled = part.dataset.for !== role;
  }
  if (!form.elements.name.dataset.typed)
    form.elements.name.value = NAMES[role][Math.floor(Math.random() * NAMES[role].length)];
}

/** What the form says, as /dev/token takes it. */
function whoFrom(form) {
  const { name, role, coins, price, pulse, tags } = form.elements;
  const host = role.value === "host";
  return {
    user: userId(name.value),
    name: name.value.trim(),
    host,
    coins: host ? 0 : coins.valueAsNumber || 0,
    price_coins: host ? price.valueAsNumber : 0,
    pulse_ms: host ? Number(pulse.value) : 0,
    languages: host ? [navigator.language.split("-")[0]] : [],
    tags: host
      ? tags.value
          .split(",")
          .map((tag) => tag.trim())
          .filter(Boolean)
      : [],
    media: host ? ["voice", "video"] : [],
  };
}

function welcome(app) {
  const form = $("sign-in");
  const wished = new URLSearchParams(location.search);
  if (wished.get("role") === "host") form.elements.role.value = "host";
  if (wished.get("name")) {
    form.elements.name.value = wished.get("name");
    form.elements.name.dataset.typed = "yes";
  }
  roleChanged(form);
  form.elements.name.addEventListener("input", () => (form.elements.name.dataset.typed = "yes"));
  form.addEventListener("change", () => roleChanged(form));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    show($("sign-in-error"), false);
    app.sound.unlock();
    try {
      await app.signIn(whoFrom(form));
    } catch (error) {
      $("sign-in-error").textContent = trouble(error);
      show($("sign-in-error"), true);
    } finally {
      button.disabled = false;
    }
  });
}

const app = new App();
welcome(app);
const remembered = memory.load();
if (remembered) app.signIn(remembered.who, remembered.deviceId).catch(() => memory.clear());
globalThis.talkmeterDemo = app; // for the console, and for the browser test's look at getStats()
