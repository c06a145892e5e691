// The screen of one call, from the invite to its end: picture, controls, meter, chat. It shows what the server says.
import { avatar } from "./avatar.js";
import { $, fill, show } from "./dom.js";
import { trouble } from "./format.js";
import { Gifts, fly } from "./gifts.js";
import { MediaLink, closeDevices, openDevices } from "./media.js";
import { Meter } from "./meter.js";
import { toast } from "./notices.js";
import { Thread } from "./thread.js";

const PROOF_EVERY_MS = 5_000; // the server asks for a sign of life of the media that often
const SIGNALS_MAX = 200; // kept until the devices are open

export class CallScreen {
  call = null;
  giftCoins = 0;
  #stream = null;
  #link = null;
  #signals = [];
  #joining = false;
  #connected = false;
  #proofTimer = 0;

  constructor(app) {
    this.app = app;
    this.meter = new Meter(app);
    this.gifts = new Gifts(app);
    this.thread = new Thread(document.querySelector('[data-thread="call"]'), app);
    $("hang-up").addEventListener("click", () => this.#hangUp());
    $("mute").addEventListener("click", () => this.#toggle($("mute"), "audio"));
    $("camera").addEventListener("click", () => this.#toggle($("camera"), "video"));
    $("gift").addEventListener("click", () => this.gifts.open({ to: this.call.peer, callId: this.call.call_id }));
    $("top-up").addEventListener("click", () => app.addCoins());
  }

  /** Show a call that has just begun, or one that was found at sign-in (`resumed`). `stream`: devices already open. */
  async start(call, { stream = null, resumed = false } = {}) {
    if (this.call) return;
    this.call = call;
    this.giftCoins = 0;
    this.#joining = this.#connected = false;
    this.#signals = [];
    this.app.screen("call");
    fill($("stage-portrait"), avatar(call.peer));
    $("call-peer").textContent = call.peer.name;
    $("call-peer").focus();
    show($("camera"), call.media === "video");
    show($("gift"), call.role === "caller");
    for (const id of ["mute", "camera"]) $(id).setAttribute("aria-pressed", "false");
    this.thread.open(call.peer);
    this.meter.start(call, this.app.wallet);
    this.#render();
    await this.#openDevices(stream);
    if (this.call?.call_id === call.call_id) this.#join(resumed);
  }

  /** Take what the server says of this call; an older version of it is ignored. */
  update(call, wallet) {
    if (this.call?.call_id !== call.call_id || call.v < this.call.v) return;
    this.call = call;
    this.meter.update(call, wallet ?? this.app.wallet);
    this.#render();
    this.#join(false);
  }

  /** A message of the other side's browser. */
  signal({ call_id: callId, kind, payload }) {
    if (this.call?.call_id !== callId) return;
    if (this.#link) this.#link.receive(kind, payload);
    else if (this.#signals.length < SIGNALS_MAX) this.#signals.push([kind, payload]);
  }

  /** A gift of this call, and what it came to for who looks: its price, or what was earned by it. */
  gift(gift, text, giftCoins) {
    this.giftCoins += giftCoins;
    fly(gift.emoji);
    this.thread.note(text);
  }

  /** Leave the screen and give camera and microphone back. */
  end() {
    clearInterval(this.#proofTimer);
    this.app.sound.stop();
    this.#link?.close();
    closeDevices(this.#stream);
    this.meter.stop();
    this.gifts.close();
    for (const id of ["remote-video", "local-video"]) $(id).srcObject = null;
    $("stage").dataset.picture = "false";
    this.call = this.#link = this.#stream = null;
  }

  get stats() {
    return this.#link?.stats ?? null;
  }

  async #openDevices(opened) {
    const call = this.call;
    const { stream, missing } = opened ?? (await openDevices(call.media === "video"));
    if (this.call?.call_id !== call.call_id) return closeDevices(stream); // over before the permission was given
    this.#stream = stream;
    $("local-video").srcObject = stream;
    $("local-video").dataset.off = String(!stream.getVideoTracks().length);
    if (missing) toast(missing);
    return undefined;
  }

  /** Connect once the call is accepted and the devices are open. */
  async #join(resumed) {
    const { call } = this;
    if (this.#joining || !this.#stream || !["accepted", "connected"].includes(call.state)) return;
    this.#joining = true;
    try {
      const { media } = await this.app.client.request("call.credentials", { call_id: call.call_id });
      if (this.call?.call_id !== call.call_id) return;
      if (media.provider !== "webrtc")
        throw new Error(`This page speaks WebRTC; the server is set up for ${media.provider}.`);
      this.#link = this.#makeLink(call, media.ice_servers ?? [], resumed);
    } catch (error) {
      toast(trouble(error), "error");
      return;
    }
    this.#link.start();
    for (const [kind, payload] of this.#signals.splice(0)) this.#link.receive(kind, payload);
  }

  #makeLink(call, iceServers, resumed) {
    return new MediaLink({
      offers: call.role === "caller",
      resumed,
      video: call.media === "video",
      stream: this.#stream,
      iceServers,
      signal: (kind, payload) => this.app.client.request("call.signal", { call_id: call.call_id, kind, payload }),
      onRemote: (stream) => this.#showRemote(stream),
      onState: (connected) => this.#mediaState(connected),
    });
  }

  #showRemote(stream) {
    const video = $("remote-video");
    if (video.srcObject !== stream) video.srcObject = stream;
    video.play().catch(() => undefined); // a click of the user has allowed it already; if not, the picture stays still
    const picture = () => ($("stage").dataset.picture = String(stream.getVideoTracks().some((track) => !track.muted)));
    for (const track of stream.getVideoTracks()) track.onmute = track.onunmute = picture;
    picture();
  }

  #mediaState(connected) {
    this.#connected = connected;
    clearInterval(this.#proofTimer);
    this.#report();
    if (connected) this.#proofTimer = setInterval(() => this.#report(), PROOF_EVERY_MS);
    this.#render();
  }

  #report() {
    const state = this.#connected ? "connected" : "lost";
    const report = this.app.client.request("call.media", { call_id: this.call.call_id, state });
    report.then(({ call }) => call && this.update(call)).catch(() => undefined); // the next one says it again
  }

  #render() {
    const { call } = this;
    const calling = call.state === "inviting" || call.state === "ringing";
    $("stage").dataset.state = call.state;
    $("call-status").textContent = this.#status();
    $("hang-up-text").textContent = calling ? "Cancel" : "Hang up";
    $("hang-up").setAttribute("aria-label", calling ? "Cancel" : "Hang up");
    if (call.state === "ringing" && call.role === "caller") {
      if (this.ringing !== call.call_id) this.app.sound.ringback();
      this.ringing = call.call_id;
    } else if (!calling) this.app.sound.stop();
  }

  #status() {
    const { state, peer, paused } = this.call;
    if (state === "inviting") return `Calling ${peer.name}…`;
    if (state === "ringing") return "Ringing…";
    if (state === "accepted") return "Connecting. Nothing is charged yet.";
    if (paused) return "Paused: one of you cannot be heard. Nothing is charged.";
    return this.#connected ? "Connected" : "Connecting…";
  }

  async #hangUp() {
    const { call } = this;
    if (!call) return;
    const calling = call.state === "inviting" || call.state === "ringing";
    const pressedMs = Date.now();
    try {
      const data = { call_id: call.call_id };
      if (calling)
        await this.app.client
          .request("call.cancel", data)
          .then((ok) => this.app.ended(ok.call ?? { ...call, state: "ended", reason: "cancelled" }));
      else
        await this.app.client
          .request("call.hang_up", { ...data, sent_ms_ago: Date.now() - pressedMs })
          .then((ok) => this.app.ended(ok.call, ok.receipt));
    } catch (error) {
      if (["call_over", "not_found"].includes(error.code)) this.app.ended({ ...call, state: "ended", reason: null });
      else toast(trouble(error), "error");
    }
  }

  #toggle(button, kind) {
    const off = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(off));
    for (const track of this.#stream?.getTracks() ?? []) if (track.kind === kind) track.enabled = !off;
    if (kind === "video") $("local-video").dataset.off = String(off);
  }
}
