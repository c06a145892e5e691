/** How long to wait before connecting again: exponential with full jitter, so that a fleet does not return as a wave. */
export interface BackoffOptions {
    /** Upper bound of the first delay. */
    baseMs?: number;
    /** Upper bound of every delay. */
    capMs?: number;
    /** Gives a number in [0, 1); replaced in tests. */
    random?: () => number;
}
export declare class Backoff {
    #private;
    constructor({ baseMs, capMs, random }?: BackoffOptions);
    /** The wait before attempt `attempt` (0 is the first after a loss): uniform in [0, bound). */
    delayMs(attempt: number): number;
}
/** The attempt that follows a connection that was signed in for `livedMs` (0: never was). */
export declare function nextAttempt(attempt: number, livedMs: number, patient: boolean): number;
