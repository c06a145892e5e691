/** What turns frames into what a WebSocket sends, and back. JSON is built in; MessagePack is `@talkmeter/client/msgpack`. */

export interface Codec {
  /** As negotiated in the handshake. */
  readonly subprotocol: string;
  encode(frame: unknown): string | Uint8Array<ArrayBuffer>;
  decode(payload: string | ArrayBuffer): unknown;
}

const text = new TextDecoder();

export const json: Codec = {
  subprotocol: "talkmeter.v1.json",
  encode: (frame) => JSON.stringify(frame),
  decode: (payload) => JSON.parse(typeof payload === "string" ? payload : text.decode(payload)) as unknown,
};
