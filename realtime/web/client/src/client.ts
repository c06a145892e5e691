/** The client: connects, signs in, heals, and carries requests and events. The Python twin is realtime/client. */
import { Backoff, nextAttempt, type BackoffOptions } from "./backoff.js";
import { Channels, REJOIN, withMessageId } from "./channels.js";
import { json, type Codec } from "./codec.js";
import { Connection, Lost, type Frame, type WebSocketClass } from "./connection.js";
import { ClientClosed, ConnectTimeout, RequestRefused, RequestTimeout, Stopped } from "./errors.js";
import {
  ACKED_EVENTS,
  MUTATIONS,
  type ClientState,
  type EventFrame,
  type Events,
  type Ops,
  type TalkmeterEvent,
  type Welcome,
} from "./protocol.js";
import { Requests, type Pending, type Reply } from "./requests.js";
import { Streams } from "./streams.js";

/** Long enough for one reconnect in between. */
const REQUEST_TIMEOUT_MS = 20_000;
const CONNECT_TIMEOUT_MS = 30_000;
/** Until the server says its own. */
const HEARTBEAT_MS = 25_000;
/** A new token is fetched so long before the old one ends, or at half of a shorter life; never more often than that. */
const REFRESH_AHEAD_MS = 60_000;
const REFRESH_EVERY_MS = 1_000;
/** The longest delay that timers take. */
const TIMER_MAX_MS = 2 ** 31 - 1;
/** After a reconnect: an acknowledgement has no reply, so the last ones may have been lost. */
const ACKS_REPEATED_MAX = 20;
/** Of one request that was answered with a passing error. */
const RETRIES_MAX = 4;
const RETRIED_CODES = new Set(["internal", "unavailable", "draining", "rate_limited", "too_many_pending"]);

export interface ClientOptions {
  /** `ws://` or `wss://` address of `/v1/socket`. */
  url: string;
  /** The user's token, or a function that fetches one: called before each sign-in and shortly before the token ends. */
  token: string | (() => string | Promise<string>);
  /** Stable for the installation. */
  deviceId: string;
  /** JSON unless `msgpack` of `@talkmeter/client/msgpack` is given. */
  codec?: Codec;
  appVersion?: string;
  platform?: string;
  backoff?: BackoffOptions;
  /** Events acknowledged as soon as their handlers have run. */
  ack?: ReadonlySet<string>;
  /** Where there is no global WebSocket. */
  webSocket?: WebSocketClass;
}

export interface RequestOptions {
  /** Idempotency key; made for a mutation when not given. Give the key of a RequestTimeout to try again. */
  key?: string;
  /** For all of it, reconnects included. */
  timeoutMs?: number;
}

type Handler = (event: TalkmeterEvent<never>) => void;

/**
 * One user on one device. Connects again by itself with backoff and full jitter, resumes its event streams, joins its
 * channels again, and repeats unanswered requests with their keys. What else belongs to a connection, as presence.watch
 * and hosts.watch, is the app's to ask for again on `client.signed_in`.
 */
export class Client {
  /** What the client is doing. */
  state: ClientState = "idle";
  /** The answer to the last sign-in. */
  welcome: Welcome | null = null;
  /** Sign-ins so far. */
  connections = 0;
  /** Server's clock minus ours, in ms: add it to Date.now() before comparing with a server's time. */
  serverAheadMs = 0;

  readonly #options: ClientOptions;
  readonly #codec: Codec;
  readonly #backoff: Backoff;
  readonly #streams = new Streams();
  readonly #channels = new Channels(this.#streams);
  readonly #requests = new Requests();
  readonly #handlers = new Map<string, Set<Handler>>();
  readonly #acked: string[] = [];
  #connection: Connection | null = null;
  #token: ClientOptions["token"];
  #tokenExpiresMs = 0;
  #running: Promise<void> | null = null;
  #ended: Error | null = null;
  #wake: () => void = () => undefined;
  readonly #timers = new Set<ReturnType<typeof setTimeout>>();
  readonly #leaving = new AbortController();

  constructor(options: ClientOptions) {
    this.#options = options;
    this.#token = options.token;
    this.#codec = options.codec ?? json;
    this.#backoff = new Backoff(options.backoff);
  }

  /** Open the client and wait until it has signed in. Rejects with Stopped or ConnectTimeout. */
  connect(timeoutMs = CONNECT_TIMEOUT_MS): Promise<Welcome> {
    if (this.#ended) return Promise.reject(this.#ended);
    if (this.state === "online" && this.welcome) return Promise.resolve(this.welcome);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        off();
        this.#end(new ConnectTimeout(timeoutMs));
        reject(this.#ended as Error);
      }, timeoutMs);
      const off = this.on("client.state", () => {
        if (this.state === "online") resolve(this.welcome as Welcome);
        else if (this.state === "closed") reject(this.#ended as Error);
        else return;
        off();
        clearTimeout(timer);
      });
      this.#running ??= this.#run();
    });
  }

  /** Leave cleanly; requests that wait reject with ClientClosed. May be called twice. */
  close(): void {
    this.#end(new ClientClosed());
  }

  /** Why the client has ended for good, or null. */
  get ended(): Error | null {
    return this.#ended;
  }

  /** Call `handler` for every event of that name (`*`: all), in order; returns a function that ends it. */
  on<Name extends keyof Events>(name: Name, handler: (event: TalkmeterEvent<Events[Name]>) => void): () => void;
  on(name: string, handler: (event: TalkmeterEvent) => void): () => void;
  on(name: string, handler: (event: TalkmeterEvent<never>) => void): () => void {
    const handlers = this.#handlers.get(name) ?? new Set();
    this.#handlers.set(name, handlers.add(handler));
    return () => handlers.delete(handler);
  }

  /**
   * Send a request and return what its `ok` holds. It waits through reconnects, and is repeated with the same key
   * after a loss or a passing error. Rejects with RequestRefused, RequestTimeout, TooManyRequests, Stopped or
   * ClientClosed.
   */
  request<Op extends keyof Ops>(op: Op, data: Ops[Op]["data"], options?: RequestOptions): Promise<Ops[Op]["ok"]>;
  request(op: string, data?: object, options?: RequestOptions): Promise<unknown>;
  async request(op: string, data: object = {}, options: RequestOptions = {}): Promise<unknown> {
    if (this.#ended || !this.#running) throw this.#ended ?? new ClientClosed("the client is not open");
    const key = options.key ?? (MUTATIONS.has(op) ? newKey() : undefined);
    const sent = op === "channel.publish" ? withMessageId(data, newKey) : data;
    const pending = this.#requests.open(op, sent, key);
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      const late = new Promise<never>((_, reject) => {
        timer = setTimeout(() => reject(new RequestTimeout(op, key)), options.timeoutMs ?? REQUEST_TIMEOUT_MS);
      });
      return await Promise.race([this.#ask(pending), late]);
    } finally {
      clearTimeout(timer);
      this.#requests.close(pending);
    }
  }

  /** Replace the token of the running connection and of later ones. */
  async refresh(token: string): Promise<void> {
    const { token_expires_ms: expires } = await this.request("session.refresh", { token });
    if (typeof this.#token === "string") this.#token = token;
    this.#tokenExpiresMs = expires;
  }

  /** End this session, or all of the user's, and close. */
  async signOut({ everywhere = false } = {}): Promise<void> {
    await this.request("session.sign_out", { everywhere });
    this.close();
  }

  /** Cut the connection as a lost network does; the client heals. */
  drop(): void {
    this.#connection?.close(new Lost("dropped"));
  }

  /** Try to connect now instead of at the end of the backoff, as when the browser says that it is online again. */
  retryNow(): void {
    this.#wake();
  }

  // -- one request

  async #ask(pending: Pending): Promise<unknown> {
    for (let attempt = 0; ; attempt++) {
      this.#connection?.send(pending.frame()); // without one, the next sign-in repeats what is unanswered
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

  async #run(): Promise<void> {
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
        if (!(error instanceof Lost)) return this.#end(error as Error);
        attempt = nextAttempt(attempt, signedInMs && Date.now() - signedInMs, error.patient);
        this.#setState("waiting", error.message);
        await this.#sleep(this.#backoff.delayMs(attempt), true);
      }
    }
  }

  async #open(): Promise<{ connection: Connection; welcome: Welcome }> {
    const { url, deviceId, appVersion = "", platform = "web" } = this.#options;
    const token = await this.#fetchToken();
    const streams = this.#streams.positions();
    return Connection.open({
      url,
      codec: this.#codec,
      webSocket: this.#options.webSocket ?? WebSocket,
      signal: this.#leaving.signal,
      signIn: { token, device_id: deviceId, app_version: appVersion, platform, streams },
    });
  }

  async #fetchToken(): Promise<string> {
    if (typeof this.#token === "string") return this.#token;
    try {
      return await this.#token();
    } catch (error) {
      if (error instanceof Stopped) throw error;
      throw new Lost(`no token: ${String(error)}`); // the app's own code, over the same bad network
    }
  }

  /** Carry requests and events until the connection is lost. */
  async #serve(connection: Connection, welcome: Welcome): Promise<never> {
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

  #welcomed(welcome: Welcome): void {
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

  #received(connection: Connection, frame: Frame): void {
    if ("re" in frame) return this.#answered(frame as unknown as Reply);
    if (!("event" in frame)) return;
    const event = frame as unknown as EventFrame;
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
  #answered(reply: Reply): void {
    if (typeof reply.re === "string" && reply.re.startsWith(REJOIN)) return this.#hand(this.#channels.rejoined(reply));
    const pending = this.#requests.answer(reply);
    if (pending && !reply.error) this.#channels.answered(pending.op, pending.data, reply.ok);
  }

  /** Ask for a sign of life when nothing was heard for a heartbeat; give up after a second one. */
  #watch(connection: Connection, heartbeatMs: number): () => void {
    connection.heardMs = Date.now();
    const timer = setInterval(() => {
      const silentMs = Date.now() - connection.heardMs;
      if (silentMs >= 2 * heartbeatMs) connection.close(new Lost("the server fell silent"));
      else if (silentMs >= 0.9 * heartbeatMs) connection.send({ id: "ping", op: "session.ping", data: {} });
    }, heartbeatMs);
    return () => clearInterval(timer);
  }

  /** Fetch a new token before the old one ends, if there is a way to fetch. */
  #keepToken(): () => void {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const schedule = (): void => {
      if (typeof this.#token === "string" || !this.#tokenExpiresMs) return;
      const leftMs = this.#tokenExpiresMs - Date.now() - this.serverAheadMs;
      const delayMs = Math.max(REFRESH_EVERY_MS, leftMs - REFRESH_AHEAD_MS, leftMs / 2);
      timer = setTimeout(() => void renew(), Math.min(delayMs, TIMER_MAX_MS));
    };
    const renew = async (): Promise<void> => {
      const current = timer;
      try {
        await this.refresh(await this.#fetchToken());
      } catch {
        // The app's code or the network; the old token still holds for a while, and then the server says what to do.
      }
      if (timer === current) schedule();
    };
    schedule();
    return () => {
      clearTimeout(timer);
      timer = undefined;
    };
  }

  // -- state

  /** Wait; `wakeable` waits end early by retryNow(). */
  #sleep(delayMs: number, wakeable = false): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#timers.delete(timer);
        resolve();
      };
      const timer = setTimeout(done, delayMs);
      this.#timers.add(timer);
      if (wakeable) this.#wake = done;
    });
  }

  #hand(event: EventFrame): void {
    for (const name of [event.event, "*"]) {
      for (const handler of [...(this.#handlers.get(name) ?? [])]) {
        try {
          handler(event as TalkmeterEvent<never>);
        } catch (error) {
          reportError(error); // a handler that fails disturbs nobody else
        }
      }
    }
  }

  #setState(state: ClientState, reason = ""): void {
    this.state = state;
    this.#hand({ event: "client.state", stream: "", data: { state, reason } });
  }

  #end(why: Error): void {
    if (this.#ended) return;
    this.#ended = why;
    this.#leaving.abort();
    this.#connection?.close();
    this.#wake();
    for (const timer of this.#timers) clearTimeout(timer);
    this.#requests.fail(why);
    this.#setState("closed", why.message);
  }
}

/** randomUUID needs a secure context; a development page may be served from a plain address. */
function newKey(): string {
  if (typeof crypto.randomUUID === "function") return crypto.randomUUID();
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Say it on the console where the platform has no reportError. */
function reportError(error: unknown): void {
  if (typeof globalThis.reportError === "function") globalThis.reportError(error);
  else console.error(error);
}
