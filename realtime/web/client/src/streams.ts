/**
 * Where we are in each event stream: what is a repeat, what is a gap, and what to tell the server at sign-in.
 * A position moves only over events that were handed on, so a sign-in with it replays exactly what is missing.
 */
import type { EventFrame, StreamPosition } from "./protocol.js";

/** Event ids remembered; the server's log keeps fewer events than that for a user. */
const SEEN_MAX = 2_000;
/** Streams of one connection, oldest forgotten first. */
const STREAMS_MAX = 1_000;

/** `new`: hand it on; `repeat`: drop it; `gap`: something before it is missing, reconnect and resume. */
export type Verdict = "new" | "repeat" | "gap";

export class Streams {
  readonly #positions = new Map<string, { epoch: string; offset: number }>();
  readonly #seen = new Set<string>();
  /** A gap that a resume did not close is the server's word. */
  #excused = "";

  judge(event: EventFrame): Verdict {
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
    if (this.#seen.size > SEEN_MAX) this.#seen.delete(this.#seen.values().next().value as string);
    return "new";
  }

  /** Take the server's word at sign-in: its head where nothing could be recovered or nothing was known. */
  signedIn(stream: string, head: { epoch: string; offset: number } | undefined, recovered: boolean): void {
    if (head && (!recovered || !this.#positions.has(stream))) this.place(stream, head.epoch, head.offset);
  }

  /** Set a position, as after joining a channel. */
  place(stream: string, epoch: string, offset: number): void {
    this.#positions.delete(stream);
    this.#positions.set(stream, { epoch, offset });
    if (this.#positions.size > STREAMS_MAX) this.#positions.delete(this.#positions.keys().next().value as string);
  }

  /** Forget a stream. */
  leave(stream: string): void {
    this.#positions.delete(stream);
  }

  /** The position in one stream, if there is any. */
  position(stream: string): { epoch: string; offset: number } | undefined {
    const place = this.#positions.get(stream);
    return place && place.epoch !== "" ? { ...place } : undefined;
  }

  /** What sign-in tells the server. */
  positions(): StreamPosition[] {
    return [...this.#positions]
      .filter(([, { epoch }]) => epoch !== "")
      .map(([stream, { epoch, offset }]) => ({ stream, epoch, offset }));
  }
}
