// talkmeter client, Apache-2.0. Built from src/ by build.mjs; sources sha256:10b1188cb755350be8d8e97f1d666a785e4491c9ede13cfa4a27c2351cfa7290

// src/backoff.ts
var STABLE_MS = 1e4;
var PATIENT_ATTEMPT = 3;
var ATTEMPT_MAX = 16;
var Backoff = class {
  #baseMs;
  #capMs;
  #random;
  constructor({ baseMs = 500, capMs = 3e4, random = Math.random } = {}) {
    this.#baseMs = baseMs;
    this.#capMs = capMs;
    this.#random = random;
  }
  /** The wait before attempt `attempt` (0 is the first after a loss): uniform in [0, bound). */
  delayMs(attempt) {
    return this.#random() * Math.min(this.#capMs, this.#baseMs * 2 ** Math.min(attempt, ATTEMPT_MAX));
  }
};
function nextAttempt(attempt, livedMs, patient) {
  const following = livedMs >= STABLE_MS ? 0 : attempt + 1;
  return patient ? Math.max(following, PATIENT_ATTEMPT) : following;
}

// src/channels.ts
var REJOIN = "join:";
function withMessageId(data, newId) {
  const given = data;
  return given.ephemeral || given.message_id ? data : { ...data, message_id: newId() };
}
var Channels = class {
  #joined = /* @__PURE__ */ new Map();
  #streams;
  constructor(streams) {
    this.#streams = streams;
  }
  /** Take note of the app's own joins and leaves, before any event that follows the answer. */
  answered(op, data, ok) {
    const { channel } = data;
    if (channel === void 0) return;
    if (op === "channel.join") {
      this.#joined.set(channel, data);
      this.#place(channel, ok);
    } else if (op === "channel.leave") {
      this.#forget(channel);
    }
  }
  /** The requests to send first on a new connection. */
  rejoins() {
    return [...this.#joined].map(([channel, data]) => {
      const position = this.#streams.position(`channel:${channel}`);
      return { id: `${REJOIN}${channel}`, op: "channel.join", data: position ? { ...data, position } : data };
    });
  }
  /** Take the answer to one of `rejoins`; returns what to tell the app. */
  rejoined(reply) {
    const channel = String(reply.re).slice(REJOIN.length);
    if (reply.error) {
      this.#forget(channel);
      return { event: "client.channel_lost", stream: "", data: { channel, error: reply.error } };
    }
    this.#place(channel, reply.ok);
    return { event: "client.channel", stream: "", data: reply.ok };
  }
  #place(channel, ok) {
    this.#streams.signedIn(`channel:${channel}`, ok, Boolean(ok.recovered));
  }
  #forget(channel) {
    this.#joined.delete(channel);
    this.#streams.leave(`channel:${channel}`);
  }
};

// src/codec.ts
var text = new TextDecoder();
var json = {
  subprotocol: "talkmeter.v1.json",
  encode: (frame) => JSON.stringify(frame),
  decode: (payload) => JSON.parse(typeof payload === "string" ? payload : text.decode(payload))
};

// src/errors.ts
var ClientError = class extends Error {
  constructor(message, code, retryable = false, nextAction = null) {
    super(message);
    this.code = code;
    this.retryable = retryable;
    this.nextAction = nextAction;
  }
  code;
  retryable;
  nextAction;
  name = "ClientError";
};
var RequestRefused = class extends ClientError {
  constructor(op, error) {
    super(error.message, error.code, error.retryable, error.next_action ?? null);
    this.op = op;
    this.details = error.details ?? {};
  }
  op;
  name = "RequestRefused";
  details;
};
var RequestTimeout = class extends ClientError {
  constructor(op, key) {
    super(`${op}: no answer in time`, "timeout", true, "wait");
    this.op = op;
    this.key = key;
  }
  op;
  key;
  name = "RequestTimeout";
};
var TooManyRequests = class extends ClientError {
  name = "TooManyRequests";
  constructor(max) {
    super(`${max} requests are waiting for answers`, "too_many_pending", true, "wait");
  }
};
var ConnectTimeout = class extends ClientError {
  name = "ConnectTimeout";
  constructor(timeoutMs) {
    super(`no signed-in connection within ${timeoutMs} ms`, "connect_timeout", true, "wait");
  }
};
var ClientClosed = class extends ClientError {
  name = "ClientClosed";
  constructor(message = "the client was closed") {
    super(message, "closed");
  }
};
var Stopped = class extends ClientError {
  constructor(message, code, closeCode = null, nextAction = null) {
    super(message, code, false, nextAction);
    this.closeCode = closeCode;
  }
  closeCode;
  name = "Stopped";
};

// src/connection.ts
var SIGN_IN_TIMEOUT_MS = 2e4;
var STOP_FROM = 4500;
var PATIENT_CLOSES = /* @__PURE__ */ new Set([4010, 4011]);
var NEXT_ACTIONS = {
  4501: "sign_in",
  4502: "sign_in",
  4503: "sign_in",
  4504: "sign_in",
  4506: "sign_in",
  4508: "update_app"
};
var Lost = class extends Error {
  constructor(message, patient = false) {
    super(message);
    this.patient = patient;
  }
  patient;
};
var Connection = class _Connection {
  #socket;
  #codec;
  #lose;
  #onFrame = null;
  #early = [];
  /** Rejects, with Lost or Stopped, when the connection is gone; never resolves. */
  lost;
  heardMs = 0;
  constructor({ url, codec, webSocket }) {
    this.#codec = codec;
    this.lost = new Promise((_, reject) => this.#lose = reject);
    this.lost.catch(() => void 0);
    this.#socket = new webSocket(url, [codec.subprotocol]);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onmessage = ({ data }) => this.#received(data);
    this.#socket.onclose = ({ code, reason }) => this.#lose(ending(code, reason));
    this.#socket.onerror = () => this.#lose(new Lost("the connection failed"));
  }
  /** Open a socket and sign in. Rejects with Lost or Stopped. */
  static async open(options) {
    const connection = new _Connection(options);
    const abort = () => connection.close();
    options.signal.addEventListener("abort", abort);
    let timer;
    try {
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Lost("the sign-in took too long")), SIGN_IN_TIMEOUT_MS);
      });
      const welcome = await Promise.race([connection.#signIn(options.signIn), connection.lost, late]);
      return { connection, welcome };
    } catch (error) {
      connection.close();
      throw error;
    } finally {
      clearTimeout(timer);
      options.signal.removeEventListener("abort", abort);
    }
  }
  /** Hand every frame from now on, and those that came since the sign-in, to `onFrame`. */
  listen(onFrame) {
    this.#onFrame = onFrame;
    for (const frame of this.#early.splice(0)) onFrame(frame);
  }
  send(frame) {
    if (this.#socket.readyState === 1) this.#socket.send(this.#codec.encode(frame));
  }
  /** Leave; `lost` rejects at once, since a dead network would take minutes to say so. */
  close(why = new Lost("closed by us")) {
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    this.#socket.onerror = () => void 0;
    this.#lose(why);
    this.#socket.close(1e3);
  }
  #signIn(data) {
    return new Promise((resolve, reject) => {
      this.#socket.onopen = () => this.send({ id: 0, op: "session.sign_in", data });
      this.#onFrame = (frame) => {
        if (frame["re"] !== 0) return;
        this.#onFrame = (early) => this.#early.push(early);
        const { ok, error } = frame;
        if (!error) return resolve(ok);
        const { message, code, retryable, nextAction } = new RequestRefused("session.sign_in", error);
        reject(retryable ? new Lost(message, nextAction === "wait") : new Stopped(message, code, null, nextAction));
      };
    });
  }
  #received(data) {
    this.heardMs = Date.now();
    let frame;
    try {
      frame = this.#codec.decode(data);
    } catch {
      return this.close(new Lost("the server sent a frame that cannot be read"));
    }
    this.#onFrame?.(frame);
  }
};
function ending(code, reason) {
  if (code < STOP_FROM) return new Lost(`${code} ${reason}`.trim(), PATIENT_CLOSES.has(code));
  const message = `closed by the server: ${code} ${reason}`;
  return new Stopped(message, reason || String(code), code, NEXT_ACTIONS[code] ?? null);
}

// src/protocol.ts
var MUTATIONS = /* @__PURE__ */ new Set([
  "hosts.update",
  "call.invite",
  "call.accept",
  "call.decline",
  "call.cancel",
  "call.hang_up",
  "gift.send",
  "chat.send",
  "device.register",
  "device.unregister",
  "profile.update",
  "push.mute"
]);
var ACKED_EVENTS = /* @__PURE__ */ new Set(["call.incoming"]);

// src/requests.ts
var REQUESTS_MAX = 64;
var Pending = class {
  constructor(id, op, data, key) {
    this.id = id;
    this.op = op;
    this.data = data;
    this.key = key;
    this.renew();
  }
  id;
  op;
  data;
  key;
  answer;
  answered = false;
  #resolve;
  #reject;
  /** Wait for another answer to the same request: same id, same key. */
  renew() {
    this.answered = false;
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.answer.catch(() => void 0);
  }
  settle(value, error) {
    this.answered = true;
    if (error) this.#reject(error);
    else this.#resolve(value);
  }
  frame() {
    const frame = { id: this.id, op: this.op, data: this.data };
    if (this.key !== void 0) frame["key"] = this.key;
    return frame;
  }
};
var Requests = class {
  #lastId = 0;
  #pending = /* @__PURE__ */ new Map();
  open(op, data, key) {
    if (this.#pending.size >= REQUESTS_MAX) throw new TooManyRequests(REQUESTS_MAX);
    const pending = new Pending(++this.#lastId, op, data, key);
    this.#pending.set(pending.id, pending);
    return pending;
  }
  close(pending) {
    this.#pending.delete(pending.id);
  }
  /** Give a reply to the request it belongs to, and return that; a late or unknown one is ignored. */
  answer(reply) {
    const pending = typeof reply.re === "number" ? this.#pending.get(reply.re) : void 0;
    if (!pending || pending.answered) return void 0;
    pending.settle(reply.ok, reply.error && new RequestRefused(pending.op, reply.error));
    return pending;
  }
  /** The requests to repeat on a new connection, oldest first. */
  unanswered() {
    return [...this.#pending.values()].filter((pending) => !pending.answered);
  }
  /** Answer everything that waits with `error`. */
  fail(error) {
    for (const pending of this.unanswered()) pending.settle(void 0, error);
  }
};

// src/streams.ts
var SEEN_MAX = 2e3;
var STREAMS_MAX = 1e3;
var Streams = class {
  #positions = /* @__PURE__ */ new Map();
  #seen = /* @__PURE__ */ new Set();
  /** A gap that a resume did not close is the server's word. */
  #excused = "";
  judge(event) {
    const here = this.#positions.get(event.stream);
    if (event.offset && here && here.epoch === event.epoch) {
      if (event.offset <= here.offset) return "repeat";
      const place = `${event.stream} ${here.epoch} ${here.offset}`;
      if (event.offset > here.offset + 1 && this.#excused !== place) {
        this.#excused = place;
        return "gap";
      }
    }
    if (event.offset) this.place(event.stream, event.epoch ?? "", event.offset);
    if (!event.event_id) return "new";
    if (this.#seen.has(event.event_id)) return "repeat";
    this.#seen.add(event.event_id);
    if (this.#seen.size > SEEN_MAX) this.#seen.delete(this.#seen.values().next().value);
    return "new";
  }
  /** Take the server's word at sign-in: its head where nothing could be recovered or nothing was known. */
  signedIn(stream, head, recovered) {
    if (head && (!recovered || !this.#positions.has(stream))) this.place(stream, head.epoch, head.offset);
  }
  /** Set a position, as after joining a channel. */
  place(stream, epoch, offset) {
    this.#positions.delete(stream);
    this.#positions.set(stream, { epoch, offset });
    if (this.#positions.size > STREAMS_MAX) this.#positions.delete(this.#positions.keys().next().value);
  }
  /** Forget a stream. */
  leave(stream) {
    this.#positions.delete(stream);
  }
  /** The position in one stream, if there is any. */
  position(stream) {
    const place = this.#positions.get(stream);
    return place && place.epoch !== "" ? { ...place } : void 0;
  }
  /** What sign-in tells the server. */
  positions() {
    return [...this.#positions].filter(([, { epoch }]) => epoch !== "").map(([stream, { epoch, offset }]) => ({ stream, epoch, offset }));
  }
};

// src/client.ts
var REQUEST_TIMEOUT_MS = 2e4;
var CONNECT_TIMEOUT_MS = 3e4;
var HEARTBEAT_MS = 25e3;
var REFRESH_AHEAD_MS = 6e4;
var REFRESH_EVERY_MS = 1e3;
var TIMER_MAX_MS = 2 ** 31 - 1;
var ACKS_REPEATED_MAX = 20;
var RETRIES_MAX = 4;
var RETRIED_CODES = /* @__PURE__ */ new Set(["internal", "unavailable", "draining", "rate_limited", "too_many_pending"]);
var Client = class {
  /** What the client is doing. */
  state = "idle";
  /** The answer to the last sign-in. */
  welcome = null;
  /** Sign-ins so far. */
  connections = 0;
  /** Server's clock minus ours, in ms: add it to Date.now() before comparing with a server's time. */
  serverAheadMs = 0;
  #options;
  #codec;
  #backoff;
  #streams = new Streams();
  #channels = new Channels(this.#streams);
  #requests = new Requests();
  #handlers = /* @__PURE__ */ new Map();
  #acked = [];
  #connection = null;
  #token;
  #tokenExpiresMs = 0;
  #running = null;
  #ended = null;
  #wake = () => void 0;
  #timers = /* @__PURE__ */ new Set();
  #leaving = new AbortController();
  constructor(options) {
    this.#options = options;
    this.#token = options.token;
    this.#codec = options.codec ?? json;
    this.#backoff = new Backoff(options.backoff);
  }
  /** Open the client and wait until it has signed in. Rejects with Stopped or ConnectTimeout. */
  connect(timeoutMs = CONNECT_TIMEOUT_MS) {
    if (this.#ended) return Promise.reject(this.#ended);
    if (this.state === "online" && this.welcome) return Promise.resolve(this.welcome);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        off();
        this.#end(new ConnectTimeout(timeoutMs));
        reject(this.#ended);
      }, timeoutMs);
      const off = this.on("client.state", () => {
        if (this.state === "online") resolve(this.welcome);
        else if (this.state === "closed") reject(this.#ended);
        else return;
        off();
        clearTimeout(timer);
      });
      this.#running ??= this.#run();
    });
  }
  /** Leave cleanly; requests that wait reject with ClientClosed. May be called twice. */
  close() {
    this.#end(new ClientClosed());
  }
  /** Why the client has ended for good, or null. */
  get ended() {
    return this.#ended;
  }
  on(name, handler) {
    const handlers = this.#handlers.get(name) ?? /* @__PURE__ */ new Set();
    this.#handlers.set(name, handlers.add(handler));
    return () => handlers.delete(handler);
  }
  async request(op, data = {}, options = {}) {
    if (this.#ended || !this.#running) throw this.#ended ?? new ClientClosed("the client is not open");
    const key = options.key ?? (MUTATIONS.has(op) ? newKey() : void 0);
    const sent = op === "channel.publish" ? withMessageId(data, newKey) : data;
    const pending = this.#requests.open(op, sent, key);
    let timer;
    try {
      const late = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new RequestTimeout(op, key)), options.timeoutMs ?? REQUEST_TIMEOUT_MS);
      });
      return await Promise.race([this.#ask(pending), late]);
    } finally {
      clearTimeout(timer);
      this.#requests.close(pending);
    }
  }
  /** Replace the token of the running connection and of later ones. */
  async refresh(token) {
    const { token_expires_ms: expires } = await this.request("session.refresh", { token });
    if (typeof this.#token === "string") this.#token = token;
    this.#tokenExpiresMs = expires;
  }
  /** End this session, or all of the user's, and close. */
  async signOut({ everywhere = false } = {}) {
    await this.request("session.sign_out", { everywhere });
    this.close();
  }
  /** Cut the connection as a lost network does; the client heals. */
  drop() {
    this.#connection?.close(new Lost("dropped"));
  }
  /** Try to connect now instead of at the end of the backoff, as when the browser says that it is online again. */
  retryNow() {
    this.#wake();
  }
  // -- one request
  async #ask(pending) {
    for (let attempt = 0; ; attempt++) {
      this.#connection?.send(pending.frame());
      try {
        return await pending.answer;
      } catch (error) {
        if (!(error instanceof RequestRefused) || !RETRIED_CODES.has(error.code) || attempt >= RETRIES_MAX) throw error;
        await this.#sleep(Number(error.details["retry_after_ms"]) || this.#backoff.delayMs(attempt));
        if (this.#ended) throw this.#ended;
        pending.renew();
      }
    }
  }
  // -- the connection
  async #run() {
    let attempt = -1;
    while (!this.#ended) {
      let signedInMs = 0;
      try {
        this.#setState("connecting");
        const { connection, welcome } = await this.#open();
        signedInMs = Date.now();
        await this.#serve(connection, welcome);
      } catch (error) {
        if (this.#ended) return;
        if (!(error instanceof Lost)) return this.#end(error);
        attempt = nextAttempt(attempt, signedInMs && Date.now() - signedInMs, error.patient);
        this.#setState("waiting", error.message);
        await this.#sleep(this.#backoff.delayMs(attempt), true);
      }
    }
  }
  async #open() {
    const { url, deviceId, appVersion = "", platform = "web" } = this.#options;
    const token = await this.#fetchToken();
    const streams = this.#streams.positions();
    return Connection.open({
      url,
      codec: this.#codec,
      webSocket: this.#options.webSocket ?? WebSocket,
      signal: this.#leaving.signal,
      signIn: { token, device_id: deviceId, app_version: appVersion, platform, streams }
    });
  }
  async #fetchToken() {
    if (typeof this.#token === "string") return this.#token;
    try {
      return await this.#token();
    } catch (error) {
      if (error instanceof Stopped) throw error;
      throw new Lost(`no token: ${String(error)}`);
    }
  }
  /** Carry requests and events until the connection is lost. */
  async #serve(connection, welcome) {
    if (this.#ended) {
      connection.close();
      throw this.#ended;
    }
    this.#welcomed(welcome);
    this.#connection = connection;
    const stopWatching = this.#watch(connection, welcome.heartbeat_ms || HEARTBEAT_MS);
    const stopRefreshing = this.#keepToken();
    try {
      if (this.#acked.length) connection.send({ ack: this.#acked });
      for (const rejoin of this.#channels.rejoins()) connection.send(rejoin);
      for (const pending of this.#requests.unanswered()) connection.send(pending.frame());
      this.#setState("online");
      connection.listen((frame) => this.#received(connection, frame));
      return await connection.lost;
    } finally {
      stopWatching();
      stopRefreshing();
      this.#connection = null;
    }
  }
  #welcomed(welcome) {
    this.welcome = welcome;
    this.connections += 1;
    this.serverAheadMs = (welcome.server_time_ms || Date.now()) - Date.now();
    this.#tokenExpiresMs = welcome.token_expires_ms || 0;
    this.#streams.signedIn("user", welcome.stream, welcome.recovered);
    this.#hand({ event: "client.signed_in", stream: "", data: welcome });
    if (!welcome.recovered && welcome.snapshot) {
      this.#hand({ event: "client.snapshot", stream: "", data: welcome.snapshot });
    }
  }
  #received(connection, frame) {
    if ("re" in frame) return this.#answered(frame);
    if (!("event" in frame)) return;
    const event = frame;
    const verdict = this.#streams.judge(event);
    if (verdict === "gap") return connection.close(new Lost(`events are missing in ${event.stream}`));
    if (verdict === "new") this.#hand(event);
    if (event.event_id && (this.#options.ack ?? ACKED_EVENTS).has(event.event)) {
      this.#acked.push(event.event_id);
      if (this.#acked.length > ACKS_REPEATED_MAX) this.#acked.shift();
      connection.send({ ack: [event.event_id] });
    }
  }
  /** Take a reply; what it says of channels counts before the events that come after it. */
  #answered(reply) {
    if (typeof reply.re === "string" && reply.re.startsWith(REJOIN)) return this.#hand(this.#channels.rejoined(reply));
    const pending = this.#requests.answer(reply);
    if (pending && !reply.error) this.#channels.answered(pending.op, pending.data, reply.ok);
  }
  /** Ask for a sign of life when nothing was heard for a heartbeat; give up after a second one. */
  #watch(connection, heartbeatMs) {
    connection.heardMs = Date.now();
    const timer = setInterval(() => {
      const silentMs = Date.now() - connection.heardMs;
      if (silentMs >= 2 * heartbeatMs) connection.close(new Lost("the server fell silent"));
      else if (silentMs >= 0.9 * heartbeatMs) connection.send({ id: "ping", op: "session.ping", data: {} });
    }, heartbeatMs);
    return () => clearInterval(timer);
  }
  /** Fetch a new token before the old one ends, if there is a way to fetch. */
  #keepToken() {
    let timer;
    const schedule = () => {
      if (typeof this.#token === "string" || !this.#tokenExpiresMs) return;
      const leftMs = this.#tokenExpiresMs - Date.now() - this.serverAheadMs;
      const delayMs = Math.max(REFRESH_EVERY_MS, leftMs - REFRESH_AHEAD_MS, leftMs / 2);
      timer = setTimeout(() => void renew(), Math.min(delayMs, TIMER_MAX_MS));
    };
    const renew = async () => {
      const current = timer;
      try {
        await this.refresh(await this.#fetchToken());
      } catch {
      }
      if (timer === current) schedule();
    };
    schedule();
    return () => {
      clearTimeout(timer);
      timer = void 0;
    };
  }
  // -- state
  /** Wait; `wakeable` waits end early by retryNow(). */
  #sleep(delayMs, wakeable = false) {
    return new Promise((resolve) => {
      const done = () => {
        clearTimeout(timer);
        this.#timers.delete(timer);
        resolve();
      };
      const timer = setTimeout(done, delayMs);
      this.#timers.add(timer);
      if (wakeable) this.#wake = done;
    });
  }
  #hand(event) {
    for (const name of [event.event, "*"]) {
      for (const handler of [...this.#handlers.get(name) ?? []]) {
        try {
          handler(event);
        } catch (error) {
          reportError(error);
        }
      }
    }
  }
  #setState(state, reason = "") {
    this.state = state;
    this.#hand({ event: "client.state", stream: "", data: { state, reason } });
  }
  #end(why) {
    if (this.#ended) return;
    this.#ended = why;
    this.#leaving.abort();
    this.#connection?.close();
    this.#wake();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#requests.fail(why);
    this.#setState("closed", why.message);
  }
};
function newKey() {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
function reportError(error) {
  if (typeof globalThis.reportError === "function") globalThis.reportError(error);
  else console.error(error);
}
export {
  ACKED_EVENTS,
  Backoff,
  Client,
  ClientClosed,
  ClientError,
  ConnectTimeout,
  MUTATIONS,
  RequestRefused,
  RequestTimeout,
  Stopped,
  TooManyRequests,
  json
};
