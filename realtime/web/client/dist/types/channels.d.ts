/**
 * The channels that we are in: joined again on every new connection, where the events left off. A join belongs to a
 * connection, so the server forgets it with the socket; the client does not.
 */
import type { EventFrame } from "./protocol.js";
import type { Reply } from "./requests.js";
import type { Streams } from "./streams.js";
/** Ids of our own requests; those of the app are numbers. */
export declare const REJOIN = "join:";
/** The data of a channel.publish with a `message_id`, by which a repeat is known, unless it is ephemeral. */
export declare function withMessageId(data: object, newId: () => string): object;
export declare class Channels {
    #private;
    constructor(streams: Streams);
    /** Take note of the app's own joins and leaves, before any event that follows the answer. */
    answered(op: string, data: unknown, ok: unknown): void;
    /** The requests to send first on a new connection. */
    rejoins(): Record<string, unknown>[];
    /** Take the answer to one of `rejoins`; returns what to tell the app. */
    rejoined(reply: Reply): EventFrame;
}
