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
export declare class ClientError extends Error {
    /** Stable name of the error; the server's own codes are in docs/protocol.md. */
    readonly code: string;
    /** Whether the same request may succeed later unchanged. */
    readonly retryable: boolean;
    /** What the app should do meanwhile. */
    readonly nextAction: NextAction | null;
    readonly name: string;
    constructor(message: string, 
    /** Stable name of the error; the server's own codes are in docs/protocol.md. */
    code: string, 
    /** Whether the same request may succeed later unchanged. */
    retryable?: boolean, 
    /** What the app should do meanwhile. */
    nextAction?: NextAction | null);
}
/** The server answered with an error. */
export declare class RequestRefused extends ClientError {
    readonly op: string;
    readonly name = "RequestRefused";
    readonly details: Record<string, unknown>;
    constructor(op: string, error: ErrorBody);
}
/** No answer in time, reconnects included. Whether it took effect is unknown: repeat it with the same `key`. */
export declare class RequestTimeout extends ClientError {
    readonly op: string;
    readonly key: string | undefined;
    readonly name = "RequestTimeout";
    constructor(op: string, key: string | undefined);
}
/** More requests wait for answers than the client keeps. */
export declare class TooManyRequests extends ClientError {
    readonly name = "TooManyRequests";
    constructor(max: number);
}
/** No signed-in connection in time; the client is closed. */
export declare class ConnectTimeout extends ClientError {
    readonly name = "ConnectTimeout";
    constructor(timeoutMs: number);
}
/** The client was closed, or never opened. */
export declare class ClientClosed extends ClientError {
    readonly name = "ClientClosed";
    constructor(message?: string);
}
/** The server said not to come back as we are: a close code of 4500 and above, or a sign-in that was refused. */
export declare class Stopped extends ClientError {
    /** 4500-4999, or null when the sign-in itself was answered with an error. */
    readonly closeCode: number | null;
    readonly name = "Stopped";
    constructor(message: string, code: string, 
    /** 4500-4999, or null when the sign-in itself was answered with an error. */
    closeCode?: number | null, nextAction?: NextAction | null);
}
