// The media of one call: camera and microphone, and the RTCPeerConnection that carries them. The caller makes the offer.

const LOST_AFTER_MS = 1_500; // "disconnected" heals by itself within moments, or not at all
const VIDEO = { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: "user" };

/**
 * Open what there is of camera and microphone. A missing camera leaves voice; a missing microphone leaves listening.
 * Returns `{stream, missing}` with `missing` a sentence, or "".
 */
export async function openDevices(video) {
  const tries = video
    ? [
        [{ audio: true, video: VIDEO }, ""],
        [{ audio: true }, "There is no camera to use: you are heard but not seen."],
      ]
    : [[{ audio: true }, ""]];
  for (const [wanted, missing] of tries) {
    try {
      return { stream: await navigator.mediaDevices.getUserMedia(wanted), missing };
    } catch {
      // Denied, or not there: try the next best.
    }
  }
  return { stream: new MediaStream(), missing: "There is no microphone to use: you can listen only." };
}

/** Stop camera and microphone. */
export function closeDevices(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}

export class MediaLink {
  #peer = null;
  #round = "";
  #candidates = [];
  #chain = Promise.resolve();
  #lostTimer = 0;
  #closed = false;

  /**
   * @param {object} options
   * @param {boolean} options.offers the caller's side makes the offers
   * @param {boolean} options.resumed the page came back into a call that was connected before
   * @param {boolean} options.video
   * @param {MediaStream} options.stream what we send
   * @param {RTCIceServer[]} options.iceServers
   * @param {(kind: string, payload: object) => Promise<unknown>} options.signal
   * @param {(stream: MediaStream) => void} options.onRemote
   * @param {(connected: boolean) => void} options.onState
   */
  constructor(options) {
    this.options = options;
  }

  /** Begin: the caller offers; the host waits for that, or asks for it when it comes back after a reload. */
  start() {
    if (this.options.offers) this.#queue(() => this.#offer());
    else if (this.options.resumed) this.#send("bye", { again: true });
  }

  /** Take a message of the other side; they are worked on one after another. */
  receive(kind, payload) {
    this.#queue(() => this.#receive(kind, payload));
  }

  get stats() {
    return this.#peer?.getStats() ?? Promise.resolve(new Map());
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#lostTimer);
    this.#peer?.close();
  }

  #queue(step) {
    this.#chain = this.#chain
      .then(() => (this.#closed ? undefined : step()))
      .catch((error) => console.warn("media:", error));
  }

  async #receive(kind, payload) {
    if (kind === "offer" && !this.options.offers) return this.#answer(payload);
    if (kind === "bye" && this.options.offers) return this.#offer();
    if (payload.round !== this.#round || !this.#peer) return undefined; // of a connection that was given up
    if (kind === "answer" && this.#peer.signalingState === "have-local-offer") {
      await this.#peer.setRemoteDescription({ type: "answer", sdp: payload.sdp });
      return this.#addCandidates();
    }
    if (kind === "candidate") {
      this.#candidates.push(payload.candidate);
      return this.#addCandidates();
    }
    return undefined;
  }

  async #offer() {
    this.#open(crypto.getRandomValues(new Uint32Array(1))[0].toString(36));
    await this.#peer.setLocalDescription();
    this.#send("offer", { round: this.#round, sdp: this.#peer.localDescription.sdp });
  }

  async #answer({ round, sdp }) {
    this.#open(round);
    await this.#peer.setRemoteDescription({ type: "offer", sdp });
    await this.#peer.setLocalDescription();
    this.#send("answer", { round, sdp: this.#peer.localDescription.sdp });
    await this.#addCandidates();
  }

  async #addCandidates() {
    if (!this.#peer.remoteDescription) return;
    for (const candidate of this.#candidates.splice(0)) await this.#peer.addIceCandidate(candidate);
  }

  #open(round) {
    this.#peer?.close();
    this.#round = round;
    this.#candidates = [];
    const { stream, iceServers, offers, video, onRemote } = this.options;
    const peer = new RTCPeerConnection({ iceServers });
    this.#peer = peer;
    for (const track of stream.getTracks()) peer.addTrack(track, stream);
    if (offers) {
      if (!stream.getAudioTracks().length) peer.addTransceiver("audio", { direction: "recvonly" });
      if (video && !stream.getVideoTracks().length) peer.addTransceiver("video", { direction: "recvonly" });
    }
    peer.onicecandidate = ({ candidate }) =>
      candidate && this.#send("candidate", { round, candidate: candidate.toJSON() });
    peer.ontrack = ({ streams: [remote], track }) => onRemote(remote ?? new MediaStream([track]));
    peer.onconnectionstatechange = () => peer === this.#peer && this.#changed(peer.connectionState);
  }

  #changed(state) {
    clearTimeout(this.#lostTimer);
    if (state === "connected") return this.options.onState(true);
    if (state === "failed") return this.#lost();
    if (state === "disconnected") this.#lostTimer = setTimeout(() => this.#lost(), LOST_AFTER_MS);
    return undefined;
  }

  #lost() {
    if (this.#closed) return;
    this.options.onState(false);
    if (this.options.offers) this.#queue(() => this.#offer());
  }

  #send(kind, payload) {
    this.options.signal(kind, payload).catch((error) => console.warn("signal:", error));
  }
}
