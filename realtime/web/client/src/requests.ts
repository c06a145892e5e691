/** Requests that wait for their answers, in order, so that a new connection can repeat them. */
import { RequestRefused, TooManyRequests, type ErrorBody } from "./errors.js";

/** The server keeps as many for one connection; a phone waits for a handful. */
const REQUESTS_MAX = 64;

export interface Reply {
  re: unknown;
  ok?: unknown;
  error?: ErrorBody;
}

export class Pending {
  answer!: Promise<unknown>;
  answered = false;
  #resolve!: (value: unknown) => void;
  #reject!: (error: Error) => void;

  constructor(
    readonly id: number,
    readonly op: string,
    readonly data: unknown,
    readonly key: string | undefined,
  ) {
    this.renew();
  }

  /** Wait for another answer to the same request: same id, same key. */
  renew(): void {
    this.answered = false;
    this.answer = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.answer.catch(() => undefined); // whoever asked may have left already
  }

  settle(value: unknown, error?: Error): void {
    this.answered = true;
    if (error) this.#reject(error);
    else this.#resolve(value);
  }

  frame(): Record<string, unknown> {
    const frame: Record<string, unknown> = { id: this.id, op: this.op, data: this.data };
    if (this.key !== undefined) frame["key"] = this.key;
    return frame;
  }
}

/** The table of pending requests of one client; ids are never reused within it. */
export class Requests {
  #lastId = 0;
  readonly #pending = new Map<number, Pending>();

  open(op: string, data: unknown, key: string | undefined): Pending {
    if (this.#pending.size >= REQUESTS_MAX) throw new TooManyRequests(REQUESTS_MAX);
    const pending = new Pending(++this.#lastId, op, data, key);
    this.#pending.set(pending.id, pending);
    return pending;
  }

  close(pending: Pending): void {
    this.#pending.delete(pending.id);
  }

  /** Give a reply to the request it belongs to, and return that; a late or unknown one is ignored. */
  answer(reply: Reply): Pending | undefined {
    const pending = typeof reply.re === "number" ? this.#pending.get(reply.re) : undefined;
    if (!pending || pending.answered) return undefined;
    pending.settle(reply.ok, reply.error && new RequestRefused(pending.op, reply.error));
    return pending;
  }

  /** The requests to repeat on a new connection, oldest first. */
  unanswered(): Pending[] {
    return [...this.#pending.values()].filter((pending) => !pending.answered);
  }

  /** Answer everything that waits with `error`. */
  fail(error: Error): void {
    for (const pending of this.unanswered()) pending.settle(undefined, error);
  }
}
