/** One socket from its opening to its loss, and what the loss means. Signs in; knows nothing of requests and streams. */
import type { Codec } from "./codec.js";
import { RequestRefused, Stopped, type NextAction } from "./errors.js";
import type { Welcome } from "./protocol.js";
import type { Reply } from "./requests.js";

/** TCP, TLS and upgrade, and the sign-in after it. */
const SIGN_IN_TIMEOUT_MS = 20_000;
/** From this close code on a client does not come back by itself. */
const STOP_FROM = 4500;
/** rate_limited and overloaded: come back later. */
const PATIENT_CLOSES = new Set([4010, 4011]);
const NEXT_ACTIONS: Record<number, NextAction> = {
  4501: "sign_in",
  4502: "sign_in",
  4503: "sign_in",
  4504: "sign_in",
  4506: "sign_in",
  4508: "update_app",
};

/** The connection is gone and another should be tried; `patient` when the server asked us to wait. */
export class Lost extends Error {
  constructor(
    message: string,
    readonly patient = false,
  ) {
    super(message);
  }
}

export type WebSocketClass = new (url: string, protocols: string[]) => WebSocket;
export type Frame = Record<string, unknown>;

export interface ConnectionOptions {
  url: string;
  codec: Codec;
  webSocket: WebSocketClass;
  /** Data of session.sign_in. */
  signIn: Frame;
  /** Gives up an opening that is no longer wanted. */
  signal: AbortSignal;
}

export class Connection {
  readonly #socket: WebSocket;
  readonly #codec: Codec;
  #lose!: (why: Error) => void;
  #onFrame: ((frame: Frame) => void) | null = null;
  #early: Frame[] = [];
  /** Rejects, with Lost or Stopped, when the connection is gone; never resolves. */
  readonly lost: Promise<never>;
  heardMs = 0;

  private constructor({ url, codec, webSocket }: ConnectionOptions) {
    this.#codec = codec;
    this.lost = new Promise((_, reject) => (this.#lose = reject));
    this.lost.catch(() => undefined); // close() may come before anybody waits
    this.#socket = new webSocket(url, [codec.subprotocol]);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onmessage = ({ data }: MessageEvent<string | ArrayBuffer>) => this.#received(data);
    this.#socket.onclose = ({ code, reason }) => this.#lose(ending(code, reason));
    // Node 20 says only this of a connection that was refused; browsers say it just before a close of 1006.
    this.#socket.onerror = () => this.#lose(new Lost("the connection failed"));
  }

  /** Open a socket and sign in. Rejects with Lost or Stopped. */
  static async open(options: ConnectionOptions): Promise<{ connection: Connection; welcome: Welcome }> {
    const connection = new Connection(options);
    const abort = (): void => connection.close();
    options.signal.addEventListener("abort", abort);
    let timer: ReturnType<typeof setTimeout> | undefined;
    try {
      const late = new Promise<never>((_, reject) => {
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
  listen(onFrame: (frame: Frame) => void): void {
    this.#onFrame = onFrame;
    for (const frame of this.#early.splice(0)) onFrame(frame);
  }

  send(frame: Frame): void {
    if (this.#socket.readyState === 1) this.#socket.send(this.#codec.encode(frame));
  }

  /** Leave; `lost` rejects at once, since a dead network would take minutes to say so. */
  close(why: Error = new Lost("closed by us")): void {
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    this.#socket.onerror = () => undefined;
    this.#lose(why);
    this.#socket.close(1000);
  }

  #signIn(data: Frame): Promise<Welcome> {
    return new Promise((resolve, reject) => {
      this.#socket.onopen = () => this.send({ id: 0, op: "session.sign_in", data });
      this.#onFrame = (frame) => {
        if (frame["re"] !== 0) return; // presence may overtake the answer
        this.#onFrame = (early) => this.#early.push(early);
        const { ok, error } = frame as unknown as Reply;
        if (!error) return resolve(ok as Welcome);
        const { message, code, retryable, nextAction } = new RequestRefused("session.sign_in", error);
        reject(retryable ? new Lost(message, nextAction === "wait") : new Stopped(message, code, null, nextAction));
      };
    });
  }

  #received(data: string | ArrayBuffer): void {
    this.heardMs = Date.now();
    let frame: Frame;
    try {
      frame = this.#codec.decode(data) as Frame;
    } catch {
      return this.close(new Lost("the server sent a frame that cannot be read"));
    }
    this.#onFrame?.(frame);
  }
}

/** What a closed socket means. */
function ending(code: number, reason: string): Error {
  if (code < STOP_FROM) return new Lost(`${code} ${reason}`.trim(), PATIENT_CLOSES.has(code));
  const message = `closed by the server: ${code} ${reason}`;
  return new Stopped(message, reason || String(code), code, NEXT_ACTIONS[code] ?? null);
}
