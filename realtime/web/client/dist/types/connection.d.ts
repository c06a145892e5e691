/** One socket from its opening to its loss, and what the loss means. Signs in; knows nothing of requests and streams. */
import type { Codec } from "./codec.js";
import type { Welcome } from "./protocol.js";
/** The connection is gone and another should be tried; `patient` when the server asked us to wait. */
export declare class Lost extends Error {
    readonly patient: boolean;
    constructor(message: string, patient?: boolean);
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
export declare class Connection {
    #private;
    /** Rejects, with Lost or Stopped, when the connection is gone; never resolves. */
    readonly lost: Promise<never>;
    heardMs: number;
    private constructor();
    /** Open a socket and sign in. Rejects with Lost or Stopped. */
    static open(options: ConnectionOptions): Promise<{
        connection: Connection;
        welcome: Welcome;
    }>;
    /** Hand every frame from now on, and those that came since the sign-in, to `onFrame`. */
    listen(onFrame: (frame: Frame) => void): void;
    send(frame: Frame): void;
    /** Leave; `lost` rejects at once, since a dead network would take minutes to say so. */
    close(why?: Error): void;
}
