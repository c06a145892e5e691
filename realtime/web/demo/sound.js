// Sounds made on the spot: the host's ring, the caller's ringback, and a small one for messages and gifts.

const RING = [
  [0, 659],
  [0.16, 784],
  [0.32, 988],
  [0.72, 659],
  [0.88, 784],
  [1.04, 988],
]; // seconds, Hz
const RING_EVERY_MS = 2_600;
const RINGBACK_EVERY_MS = 3_000;

export class Sound {
  #context = null;
  #timer = 0;

  /** Browsers let a page sound only after a click: call this from one. */
  unlock() {
    this.#context ??= new AudioContext();
    if (this.#context.state === "suspended") this.#context.resume().catch(() => undefined);
  }

  /** Somebody calls you; until stop(). */
  ring() {
    this.#repeat(RING_EVERY_MS, () => RING.forEach(([at, hz]) => this.#note(hz, at, 0.34, 0.16, "triangle")));
    navigator.vibrate?.([300, 150, 300]);
  }

  /** You call somebody, and it rings there; until stop(). */
  ringback() {
    this.#repeat(RINGBACK_EVERY_MS, () => {
      this.#note(440, 0, 1.1, 0.045, "sine");
      this.#note(480, 0, 1.1, 0.045, "sine");
    });
  }

  stop() {
    clearInterval(this.#timer);
    this.#timer = 0;
  }

  /** A message has come. */
  blip() {
    this.#note(880, 0, 0.09, 0.06, "sine");
    this.#note(1175, 0.07, 0.12, 0.05, "sine");
  }

  /** A gift has come. */
  chime() {
    [784, 988, 1175, 1568].forEach((hz, index) => this.#note(hz, index * 0.08, 0.5, 0.07, "sine"));
  }

  #repeat(everyMs, play) {
    this.stop();
    play();
    this.#timer = setInterval(play, everyMs);
  }

  #note(hz, delayS, lengthS, loudness, type) {
    if (this.#context?.state !== "running") return;
    const start = this.#context.currentTime + delayS;
    const tone = new OscillatorNode(this.#context, { type, frequency: hz });
    const gain = new GainNode(this.#context, { gain: 0 });
    gain.gain.setValueAtTime(0, start);
    gain.gain.linearRampToValueAtTime(loudness, start + 0.015);
    gain.gain.exponentialRampToValueAtTime(0.0001, start + lengthS);
    tone.connect(gain).connect(this.#context.destination);
    tone.start(start);
    tone.stop(start + lengthS);
  }
}
