import type { Codec } from "./codec.js";
export declare const msgpack: Codec;
