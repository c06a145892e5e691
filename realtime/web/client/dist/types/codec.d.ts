/** What turns frames into what a WebSocket sends, and back. JSON is built in; MessagePack is `@talkmeter/client/msgpack`. */
export interface Codec {
    /** As negotiated in the handshake. */
    readonly subprotocol: string;
    encode(frame: unknown): string | Uint8Array<ArrayBuffer>;
    decode(payload: string | ArrayBuffer): unknown;
}
export declare const json: Codec;
