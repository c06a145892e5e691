/** Requests that wait for their answers, in order, so that a new connection can repeat them. */
import { type ErrorBody } from "./errors.js";
export interface Reply {
    re: unknown;
    ok?: unknown;
    error?: ErrorBody;
}
export declare class Pending {
    #private;
    readonly id: number;
    readonly op: string;
    readonly data: unknown;
    readonly key: string | undefined;
    answer: Promise<unknown>;
    answered: boolean;
    constructor(id: number, op: string, data: unknown, key: string | undefined);
    /** Wait for another answer to the same request: same id, same key. */
    renew(): void;
    settle(value: unknown, error?: Error): void;
    frame(): Record<string, unknown>;
}
/** The table of pending requests of one client; ids are never reused within it. */
export declare class Requests {
    #private;
    open(op: string, data: unknown, key: string | undefined): Pending;
    close(pending: Pending): void;
    /** Give a reply to the request it belongs to, and return that; a late or unknown one is ignored. */
    answer(reply: Reply): Pending | undefined;
    /** The requests to repeat on a new connection, oldest first. */
    unanswered(): Pending[];
    /** Answer everything that waits with `error`. */
    fail(error: Error): void;
}
