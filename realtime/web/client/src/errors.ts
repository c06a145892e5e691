/** Everything that a client call can reject with. Each error says whether a repeat may help, and what to do meanwhile. */

export type NextAction = "top_up" | "sign_in" | "update_app" | "wait";

/** The error of a reply, as it travels. */
export interface ErrorBody {
  code: string;
  message: string;
  retryable: boolean;
  next_action?: NextAction | null;
  details?: Record<string, unknown>;
}

export class ClientError extends Error {
  override readonly name: string = "ClientError";

  constructor(
    message: string,
    /** Stable name of the error; the server's own codes are in docs/protocol.md. */
    readonly code: string,
    /** Whether the same request may succeed later unchanged. */
    readonly retryable: boolean = false,
    /** What the app should do meanwhile. */
    readonly nextAction: NextAction | null = null,
  ) {
    super(message);
  }
}

/** The server answered with an error. */
export class RequestRefused extends ClientError {
  override readonly name = "RequestRefused";
  readonly details: Record<string, unknown>;

  constructor(
    readonly op: string,
    error: ErrorBody,
  ) {
    super(error.message, error.code, error.retryable, error.next_action ?? null);
    this.details = error.details ?? {};
  }
}

/** No answer in time, reconnects included. Whether it took effect is unknown: repeat it with the same `key`. */
export class RequestTimeout extends ClientError {
  override readonly name = "RequestTimeout";

  constructor(
    readonly op: string,
    readonly key: string | undefined,
  ) {
    super(`${op}: no answer in time`, "timeout", true, "wait");
  }
}

/** More requests wait for answers than the client keeps. */
export class TooManyRequests extends ClientError {
  override readonly name = "TooManyRequests";

  constructor(max: number) {
    super(`${max} requests are waiting for answers`, "too_many_pending", true, "wait");
  }
}

/** No signed-in connection in time; the client is closed. */
export class ConnectTimeout extends ClientError {
  override readonly name = "ConnectTimeout";

  constructor(timeoutMs: number) {
    super(`no signed-in connection within ${timeoutMs} ms`, "connect_timeout", true, "wait");
  }
}

/** The client was closed, or never opened. */
export class ClientClosed extends ClientError {
  override readonly name = "ClientClosed";

  constructor(message = "the client was closed") {
    super(message, "closed");
  }
}

/** The server said not to come back as we are: a close code of 4500 and above, or a sign-in that was refused. */
export class Stopped extends ClientError {
  override readonly name = "Stopped";

  constructor(
    message: string,
    code: string,
    /** 4500-4999, or null when the sign-in itself was answered with an error. */
    readonly closeCode: number | null = null,
    nextAction: NextAction | null = null,
  ) {
    super(message, code, false, nextAction);
  }
}
