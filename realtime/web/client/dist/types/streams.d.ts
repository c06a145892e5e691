/**
 * Where we are in each event stream: what is a repeat, what is a gap, and what to tell the server at sign-in.
 * A position moves only over events that were handed on, so a sign-in with it replays exactly what is missing.
 */
import type { EventFrame, StreamPosition } from "./protocol.js";
/** `new`: hand it on; `repeat`: drop it; `gap`: something before it is missing, reconnect and resume. */
export type Verdict = "new" | "repeat" | "gap";
export declare class Streams {
    #private;
    judge(event: EventFrame): Verdict;
    /** Take the server's word at sign-in: its head where nothing could be recovered or nothing was known. */
    signedIn(stream: string, head: {
        epoch: string;
        offset: number;
    } | undefined, recovered: boolean): void;
    /** Set a position, as after joining a channel. */
    place(stream: string, epoch: string, offset: number): void;
    /** Forget a stream. */
    leave(stream: string): void;
    /** The position in one stream, if there is any. */
    position(stream: string): {
        epoch: string;
        offset: number;
    } | undefined;
    /** What sign-in tells the server. */
    positions(): StreamPosition[];
}
