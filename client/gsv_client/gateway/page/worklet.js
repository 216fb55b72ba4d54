// On the audio thread: plays samples in the order they come. Where none are there it is silent and
// waits for a little reserve, so that a slow network is heard as one gap and not as many.

const RESERVE = 0.2; // seconds

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.chunks = []; // Float32Array each
    this.offset = 0; // into the first of them
    this.waiting = 0; // samples that are there
    this.played = 0;
    this.peak = 0;
    this.gaps = 0;
    this.ended = false;
    this.done = false;
    this.running = false; // false: filling the reserve
    this.port.onmessage = ({ data }) => {
      if (data === "end") this.ended = true;
      else if (data === "stop") this.done = true;
      else {
        this.chunks.push(data);
        this.waiting += data.length;
      }
    };
  }

  process(_, [[output]]) {
    if (this.done) {
      this.tell("stopped");
      return false;
    }
    // The first chunk plays at once; after a gap there must be a reserve.
    const enough = this.played === 0 ? 1 : RESERVE * sampleRate;
    if (!this.running && this.waiting && (this.waiting >= enough || this.ended)) {
      this.running = true;
      if (this.played === 0) this.tell("began");
    }
    if (this.running) this.fill(output);
    if (this.ended && !this.waiting) {
      this.tell("finished");
      return false;
    }
    if (this.running && currentFrame % 2048 === 0) this.tell("playing");
    return true;
  }

  fill(output) {
    let position = 0;
    while (position < output.length && this.chunks.length) {
      const chunk = this.chunks[0];
      const count = Math.min(output.length - position, chunk.length - this.offset);
      const piece = chunk.subarray(this.offset, this.offset + count);
      output.set(piece, position);
      for (const sample of piece) this.peak = Math.max(this.peak, Math.abs(sample));
      position += count;
      this.offset += count;
      if (this.offset === chunk.length) {
        this.chunks.shift();
        this.offset = 0;
      }
    }
    this.played += position;
    this.waiting -= position;
    if (position < output.length && !this.ended) {
      this.running = false;
      this.gaps += 1;
      this.tell("gap");
    }
  }

  tell(what) {
    const { played, peak, gaps } = this;
    this.port.postMessage({ what, played, peak, gaps });
  }
}

registerProcessor("player", Player);
