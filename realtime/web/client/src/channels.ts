/**
 * The channels that we are in: joined again on every new connection, where the events left off. A join belongs to a
 * connection, so the server forgets it with the socket; the client does not.
 */
import type { EventFrame } from "./protocol.js";
import type { Reply } from "./requests.js";
import type { Streams } from "./streams.js";

/** Ids of our own requests; those of the app are numbers. */
export const REJOIN = "join:";

interface Placed {
  epoch: string;
  offset: number;
  recovered?: boolean;
}

/** The data of a channel.publish with a `message_id`, by which a repeat is known, unless it is ephemeral. */
export function withMessageId(data: object, newId: () => string): object {
  const given = data as { ephemeral?: boolean; message_id?: string };
  return given.ephemeral || given.message_id ? data : { ...data, message_id: newId() };
}

export class Channels {
  readonly #joined = new Map<string, object>();
  readonly #streams: Streams;

  constructor(streams: Streams) {
    this.#streams = streams;
  }

  /** Take note of the app's own joins and leaves, before any event that follows the answer. */
  answered(op: string, data: unknown, ok: unknown): void {
    const { channel } = data as { channel?: string };
    if (channel === undefined) return;
    if (op === "channel.join") {
      this.#joined.set(channel, data as object);
      this.#place(channel, ok as Placed);
    } else if (op === "channel.leave") {
      this.#forget(channel);
    }
  }

  /** The requests to send first on a new connection. */
  rejoins(): Record<string, unknown>[] {
    return [...this.#joined].map(([channel, data]) => {
      const position = this.#streams.position(`channel:${channel}`);
      return { id: `${REJOIN}${channel}`, op: "channel.join", data: position ? { ...data, position } : data };
    });
  }

  /** Take the answer to one of `rejoins`; returns what to tell the app. */
  rejoined(reply: Reply): EventFrame {
    const channel = String(reply.re).slice(REJOIN.length);
    if (reply.error) {
      this.#forget(channel);
      return { event: "client.channel_lost", stream: "", data: { channel, error: reply.error } };
    }
    this.#place(channel, reply.ok as Placed);
    return { event: "client.channel", stream: "", data: reply.ok };
  }

  #place(channel: string, ok: Placed): void {
    this.#streams.signedIn(`channel:${channel}`, ok, Boolean(ok.recovered));
  }

  #forget(channel: string): void {
    this.#joined.delete(channel);
    this.#streams.leave(`channel:${channel}`);
  }
}
