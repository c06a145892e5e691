/** How long to wait before connecting again: exponential with full jitter, so that a fleet does not return as a wave. */

/** A connection that lived so long was a good one: count attempts anew. */
const STABLE_MS = 10_000;
/** Where the count starts when the server asked us to wait. */
const PATIENT_ATTEMPT = 3;
/** Beyond it 2 ** attempt only grows past every cap. */
const ATTEMPT_MAX = 16;

export interface BackoffOptions {
  /** Upper bound of the first delay. */
  baseMs?: number;
  /** Upper bound of every delay. */
  capMs?: number;
  /** Gives a number in [0, 1); replaced in tests. */
  random?: () => number;
}

export class Backoff {
  readonly #baseMs: number;
  readonly #capMs: number;
  readonly #random: () => number;

  constructor({ baseMs = 500, capMs = 30_000, random = Math.random }: BackoffOptions = {}) {
    this.#baseMs = baseMs;
    this.#capMs = capMs;
    this.#random = random;
  }

  /** The wait before attempt `attempt` (0 is the first after a loss): uniform in [0, bound). */
  delayMs(attempt: number): number {
    return this.#random() * Math.min(this.#capMs, this.#baseMs * 2 ** Math.min(attempt, ATTEMPT_MAX));
  }
}

/** The attempt that follows a connection that was signed in for `livedMs` (0: never was). */
export function nextAttempt(attempt: number, livedMs: number, patient: boolean): number {
  const following = livedMs >= STABLE_MS ? 0 : attempt + 1;
  return patient ? Math.max(following, PATIENT_ATTEMPT) : following;
}
