// Plays chunks of samples as they come, keeps them, and draws them.

export const RATE = 48000; // Hz, of everything on this page

let context = null;

// In the handler of a press, since browsers give no sound before one.
export async function wake() {
  if (!context) {
    context = new AudioContext({ sampleRate: RATE, latencyHint: "interactive" });
    await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
  }
  await context.resume();
}

export class Player {
  // `heard` is called with {what, played, peak, gaps} from the audio thread.
  constructor(heard) {
    this.pieces = []; // Int16Array each, for the download
    this.samples = 0;
    this.node = new AudioWorkletNode(context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.node.port.onmessage = ({ data }) => heard(data);
    this.node.connect(context.destination);
  }

  push(pcm) {
    this.pieces.push(pcm);
    this.samples += pcm.length;
    const floats = Float32Array.from(pcm, (value) => value / 32768);
    this.node.port.postMessage(floats, [floats.buffer]);
  }

  end() {
    this.node.port.postMessage("end");
  }

  stop() {
    this.node.port.postMessage("stop");
  }

  get seconds() {
    return this.samples / RATE;
  }

  // The whole as a WAV file, 16 bit, mono.
  wav() {
    const size = 2 * this.samples;
    const head = new DataView(new ArrayBuffer(44));
    const word = (place, text) => [...text].forEach((c, i) => head.setUint8(place + i, c.charCodeAt(0)));
    word(0, "RIFF");
    head.setUint32(4, 36 + size, true);
    word(8, "WAVEfmt ");
    head.setUint32(16, 16, true);
    head.setUint16(20, 1, true);
    head.setUint16(22, 1, true);
    head.setUint32(24, RATE, true);
    head.setUint32(28, 2 * RATE, true);
    head.setUint16(32, 2, true);
    head.setUint16(34, 16, true);
    word(36, "data");
    head.setUint32(40, size, true);
    return new Blob([head, ...this.pieces], { type: "audio/wav" });
  }
}

// A picture of the samples; each bar is the loudest of its stretch, those played are dark.
export class Wave {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear();
  }

  clear() {
    this.peaks = []; // of 10 ms each
    this.rest = 0;
    this.loudest = 0;
    this.draw(0);
  }

  push(pcm) {
    const step = RATE / 100;
    for (const value of pcm) {
      this.loudest = Math.max(this.loudest, Math.abs(value) / 32768);
      if (++this.rest === step) {
        this.peaks.push(this.loudest);
        this.rest = this.loudest = 0;
      }
    }
  }

  draw(playedSeconds) {
    const { canvas, peaks } = this;
    const pen = canvas.getContext("2d");
    const { width, height } = canvas;
    const style = getComputedStyle(canvas);
    pen.clearRect(0, 0, width, height);
    const bars = Math.min(240, Math.max(60, peaks.length));
    const each = peaks.length / bars;
    const top = Math.max(0.05, peaks.reduce((a, b) => Math.max(a, b), 0));
    for (let bar = 0; bar < bars && peaks.length; bar += 1) {
      const begin = Math.floor(bar * each);
      const peak = Math.max(...peaks.slice(begin, Math.max(begin + 1, Math.floor((bar + 1) * each))));
      const tall = Math.max(2, (peak / top) * height * 0.9);
      pen.fillStyle = style.getPropertyValue((bar + 1) * each <= playedSeconds * 100 ? "--main" : "--wave");
      pen.fillRect((bar * width) / bars, (height - tall) / 2, (width / bars) * 0.7, tall);
    }
  }
}
