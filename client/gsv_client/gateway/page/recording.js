// The caller's own recording: from a file or the microphone, judged by the gateway.

import { judge } from "./speech.js";
import { say } from "./texts.js";

const LONGEST = 10; // seconds from the microphone
const $ = (id) => document.getElementById(id);

let blob = null;
let piece = null; // [start, end] in seconds, when only that is to be used
let recorder = null;
let turn = 0; // of the judgements: a later one makes an earlier one void

export function setUp(failed) {
  $("file").addEventListener("change", () => {
    if ($("file").files[0]) take($("file").files[0], failed);
  });
  $("record").addEventListener("click", () => (recorder ? recorder.stop() : record(failed)));
}

// Base64 and the piece for a request; null when there is none yet.
export async function chosen() {
  if (!blob) return null;
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return { reference: btoa(text), ...(piece ? { reference_window: piece } : {}) };
}

async function record(failed) {
  let stream;
  $("record").disabled = true; // until the browser has given the microphone, or not
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
  } catch {
    failed(say("no_microphone"));
    return;
  } finally {
    $("record").disabled = false;
  }
  const parts = [];
  recorder = new MediaRecorder(stream);
  recorder.ondataavailable = ({ data }) => parts.push(data);
  recorder.onstop = () => {
    clearTimeout(limit);
    for (const track of stream.getTracks()) track.stop();
    const made = new Blob(parts, { type: recorder.mimeType });
    recorder = null;
    label();
    take(made, failed);
  };
  const limit = setTimeout(() => recorder && recorder.stop(), LONGEST * 1000);
  recorder.start();
  label();
}

// The button says what the next press does.
export function label() {
  const name = recorder ? "recording_now" : "record";
  $("record").dataset.text = name;
  $("record").textContent = say(name);
}

async function take(given, failed) {
  const mine = (turn += 1);
  blob = piece = null;
  failed("");
  $("verdict").textContent = say("checking");
  if ($("preview").src) URL.revokeObjectURL($("preview").src);
  $("preview").src = URL.createObjectURL(given);
  $("preview").hidden = false;
  try {
    const report = await judge(given);
    if (mine !== turn) return;
    if (report.usable || report.window) blob = given;
    show(report);
  } catch (error) {
    if (mine !== turn) return;
    $("verdict").textContent = "";
    failed(error.message);
  }
}

function show(report) {
  const box = $("verdict");
  box.textContent = "";
  const head = document.createElement("p");
  const warned = report.remarks.length > 0;
  head.textContent = !report.usable ? say("unfit") : warned ? say("hints") : say("good", report.seconds.toFixed(1));
  head.className = report.usable ? "good" : "remark-error";
  box.append(head);
  const list = document.createElement("ul");
  for (const remark of report.remarks) {
    const item = document.createElement("li");
    item.className = `remark-${remark.level}`;
    item.textContent = `${remark.message}: ${remark.advice}`;
    list.append(item);
  }
  if (warned) box.append(list);
  if (!report.usable && report.window) {
    const label = document.createElement("label");
    const check = document.createElement("input");
    check.type = "checkbox";
    check.id = "use_piece";
    check.checked = true;
    piece = report.window;
    check.addEventListener("change", () => { piece = check.checked ? report.window : null; });
    label.append(check, ` ${say("piece", ...report.window.map((s) => s.toFixed(1)))}`);
    box.append(label);
  }
}
