/** The client: connects, signs in, heals, and carries requests and events. The Python twin is realtime/client. */
import { type BackoffOptions } from "./backoff.js";
import { type Codec } from "./codec.js";
import { type WebSocketClass } from "./connection.js";
import { type ClientState, type Events, type Ops, type TalkmeterEvent, type Welcome } from "./protocol.js";
export interface ClientOptions {
    /** `ws://` or `wss://` address of `/v1/socket`. */
    url: string;
    /** The user's token, or a function that fetches one: called before each sign-in and shortly before the token ends. */
    token: string | (() => string | Promise<string>);
    /** Stable for the installation. */
    deviceId: string;
    /** JSON unless `msgpack` of `@talkmeter/client/msgpack` is given. */
    codec?: Codec;
    appVersion?: string;
    platform?: string;
    backoff?: BackoffOptions;
    /** Events acknowledged as soon as their handlers have run. */
    ack?: ReadonlySet<string>;
    /** Where there is no global WebSocket. */
    webSocket?: WebSocketClass;
}
export interface RequestOptions {
    /** Idempotency key; made for a mutation when not given. Give the key of a RequestTimeout to try again. */
    key?: string;
    /** For all of it, reconnects included. */
    timeoutMs?: number;
}
/**
 * One user on one device. Connects again by itself with backoff and full jitter, resumes its event streams, joins its
 * channels again, and repeats unanswered requests with their keys. What else belongs to a connection, as presence.watch
 * and hosts.watch, is the app's to ask for again on `client.signed_in`.
 */
export declare class Client {
    #private;
    /** What the client is doing. */
    state: ClientState;
    /** The answer to the last sign-in. */
    welcome: Welcome | null;
    /** Sign-ins so far. */
    connections: number;
    /** Server's clock minus ours, in ms: add it to Date.now() before comparing with a server's time. */
    serverAheadMs: number;
    constructor(options: ClientOptions);
    /** Open the client and wait until it has signed in. Rejects with Stopped or ConnectTimeout. */
    connect(timeoutMs?: number): Promise<Welcome>;
    /** Leave cleanly; requests that wait reject with ClientClosed. May be called twice. */
    close(): void;
    /** Why the client has ended for good, or null. */
    get ended(): Error | null;
    /** Call `handler` for every event of that name (`*`: all), in order; returns a function that ends it. */
    on<Name extends keyof Events>(name: Name, handler: (event: TalkmeterEvent<Events[Name]>) => void): () => void;
    on(name: string, handler: (event: TalkmeterEvent) => void): () => void;
    /**
     * Send a request and return what its `ok` holds. It waits through reconnects, and is repeated with the same key
     * after a loss or a passing error. Rejects with RequestRefused, RequestTimeout, TooManyRequests, Stopped or
     * ClientClosed.
     */
    request<Op extends keyof Ops>(op: Op, data: Ops[Op]["data"], options?: RequestOptions): Promise<Ops[Op]["ok"]>;
    request(op: string, data?: object, options?: RequestOptions): Promise<unknown>;
    /** Replace the token of the running connection and of later ones. */
    refresh(token: string): Promise<void>;
    /** End this session, or all of the user's, and close. */
    signOut({ everywhere }?: {
        everywhere?: boolean | undefined;
    }): Promise<void>;
    /** Cut the connection as a lost network does; the client heals. */
    drop(): void;
    /** Try to connect now instead of at the end of the backoff, as when the browser says that it is online again. */
    retryNow(): void;
}
