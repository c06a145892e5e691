/** `@talkmeter/client`: see README.md. */
export { Backoff, type BackoffOptions } from "./backoff.js";
export { Client, type ClientOptions, type RequestOptions } from "./client.js";
export { json, type Codec } from "./codec.js";
export { ClientClosed, ClientError, ConnectTimeout, RequestRefused, RequestTimeout, Stopped, TooManyRequests, type ErrorBody, type NextAction, } from "./errors.js";
export * from "./protocol.js";
