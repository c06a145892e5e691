/** The MessagePack codec, an entry point of its own: `new Client({ codec: msgpack, ... })`. */
import { decode, encode } from "@msgpack/msgpack";

import type { Codec } from "./codec.js";

export const msgpack: Codec = {
  subprotocol: "talkmeter.v1.msgpack",
  encode: (frame) => encode(frame, { ignoreUndefined: true }) as Uint8Array<ArrayBuffer>,
  decode: (payload) =>
    decode(typeof payload === "string" ? new TextEncoder().encode(payload) : new Uint8Array(payload)),
};
