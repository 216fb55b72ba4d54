// Talks with the gateway: one place for keys and errors.

import { say } from "./texts.js";

export class Refused extends Error {}

let key = "";
export const setKey = (given) => { key = given.trim(); };

async function call(path, init = {}) {
  const headers = { ...init.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let answer;
  try {
    answer = await fetch(path, { ...init, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(say("unreachable"));
  }
  if (answer.ok) return answer;
  if (answer.status === 401) throw new Refused(say("needs_key"));
  let told = "";
  try {
    told = (await answer.json()).error.message;
  } catch { /* an answer of a proxy's, which is not JSON */ }
  throw new Refused(told || `HTTP ${answer.status}`);
}

const asJson = (values) => ({
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(values),
});

export const options = async () => (await call("v1/speech/options")).json();
export const voices = async () => (await (await call("v1/audio/voices")).json()).voices;
export const judge = async (blob) => (await call("v1/speech/recording", { method: "POST", body: blob })).json();
export const addVoice = async (values) => (await call("v1/audio/voices", asJson(values))).json();

// Yields the lines of an answer, parsed; audio as Int16Array.
export async function* speak(order, signal) {
  const answer = await call("v1/speech", { ...asJson(order), signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused(say("broke_off"));
    }
    if (part.done) break;
    text += part.value;
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) {
      const values = JSON.parse(line);
      if (values.type === "error") throw new Refused(values.error.message);
      if (values.type === "audio") values.pcm = pcmOf(values.audio);
      yield values;
      if (values.type === "done") return;
    }
  }
  throw new Refused(say("broke_off"));
}

function pcmOf(base64) {
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  return new Int16Array(bytes.buffer);
}
