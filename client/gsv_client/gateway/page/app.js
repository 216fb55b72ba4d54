// The page: its controls, what they make of a request, and what is shown while it is answered.

import { Player, RATE, Wave, wake } from "./player.js";
import * as recording from "./recording.js";
import { addVoice, options as askOptions, Refused, setKey, speak, voices as askVoices } from "./speech.js";
import { currentTongue, say, setTongue } from "./texts.js";

const $ = (id) => document.getElementById(id);
const STEPS = { top_k: 1, sample_steps: 1, top_p: 0.05, temperature: 0.05, repetition_penalty: 0.05, speed: 0.05, pause_seconds: 0.1 };
const ORDER = ["speed", "seed", "sample_steps", "temperature", "top_k", "top_p", "repetition_penalty", "pause_seconds"];

let server = null; // what /v1/speech/options said
let player = null; // of the last answer
let running = null; // AbortController of the answer under way
let words = []; // {word, start, end, element}
const wave = new Wave($("wave"));

// Shown as text only: a server's message is never taken for markup.
const fail = (message) => { $("error").textContent = message; };
const status = (name) => { $("status").textContent = name ? say(name) : ""; };

function option(value, text) {
  const made = document.createElement("option");
  made.value = value;
  made.textContent = text;
  return made;
}

function range(name) {
  const { low, high, above } = server.limits[name];
  return above ? say("above_to", low, high) : say("from_to", low, high);
}

// Everything whose words depend on the page's language or on the server; what was chosen stays.
function fill() {
  const kept = settings();
  for (const id of ["language", "reference_language"]) {
    $(id).replaceChildren(...server.languages.map((name) => option(name, say("tongue")[name] || name)));
  }
  const fields = ORDER.map((name) => numberField(name));
  fields.push(splitField());
  $("options").replaceChildren(...fields);
  $("add_part").hidden = !server.add_voices;
  $("wave").setAttribute("aria-label", say("wave"));
  restore(kept);
  recording.label();
  count();
}

function field(name, control, hint) {
  const box = document.createElement("div");
  box.className = "field";
  const label = document.createElement("label");
  label.htmlFor = control.id;
  label.textContent = say(`o_${name}`);
  const small = document.createElement("small");
  small.id = `${control.id}_hint`;
  small.textContent = hint;
  control.setAttribute("aria-describedby", small.id);
  box.append(label, control, small);
  return box;
}

function numberField(name) {
  const input = document.createElement("input");
  input.type = "number";
  input.id = `o_${name}`;
  input.inputMode = "decimal";
  if (name === "seed") {
    input.min = 0;
    input.step = 1;
    return field(name, input, say("seed_range"));
  }
  const limit = server.limits[name];
  input.min = limit.low;
  input.max = limit.high;
  input.step = STEPS[name];
  input.placeholder = limit.default;
  return field(name, input, `${range(name)}; ${say("default")} ${limit.default}`);
}

function splitField() {
  const select = document.createElement("select");
  select.id = "o_split_method";
  select.append(option("", say("standard")));
  select.append(...server.split_methods.map((name) => option(name, `${name}: ${say("split")[name] || ""}`)));
  return field("split_method", select, "");
}

async function fillVoices(chosen) {
  const found = await askVoices();
  $("voice").replaceChildren(option("", say("standard")), ...found.map(({ name, language, text }) => {
    const made = option(name, language ? `${name} (${language})` : name);
    made.title = text || "";
    return made;
  }));
  if (found.some(({ name }) => name === chosen)) $("voice").value = chosen;
}

const CONTROLS = ["text", "language", "voice", "reference_text", "reference_language",
  ...ORDER.map((name) => `o_${name}`), "o_split_method"];

// What the controls say, by name; the recording itself and the key are no part of it.
function settings() {
  const kept = { source: source() };
  for (const id of CONTROLS) if ($(id) && $(id).value) kept[id] = $(id).value;
  return kept;
}

function restore(kept) {
  for (const id of CONTROLS) if (kept[id] !== undefined && $(id)) $(id).value = kept[id];
  if (kept.source) {
    for (const radio of document.getElementsByName("source")) radio.checked = radio.value === kept.source;
  }
  showSource();
}

const source = () => document.querySelector("input[name=source]:checked").value;

function showSource() {
  $("recording_part").hidden = source() !== "recording";
  $("voice_part").hidden = source() !== "voice";
}

function count() {
  if (server) $("count").textContent = say("count", [...$("text").value].length, server.most_text);
}

// The request; Refused says in words what is missing.
async function order() {
  const text = $("text").value;
  if (!text.trim()) throw at("text", say("no_text"));
  if ([...text].length > server.most_text) throw at("text", say("too_long", server.most_text));
  const made = { text, format: "pcm", sample_rate: RATE, language: $("language").value };
  for (const name of ORDER) {
    const input = $(`o_${name}`);
    if (input.value === "" && !input.validity.badInput) continue;
    const value = input.valueAsNumber;
    const limit = server.limits[name] || { low: 0, high: Number.MAX_SAFE_INTEGER };
    const low = limit.above ? value > limit.low : value >= limit.low;
    if (!(low && value <= limit.high)) {
      const allowed = name === "seed" ? say("from_to", 0, Number.MAX_SAFE_INTEGER) : range(name);
      throw at(input.id, say("out_of_range", say(input.id), allowed));
    }
    made[name] = value;
  }
  if ($("o_split_method").value) made.split_method = $("o_split_method").value;
  if (source() === "voice") {
    if ($("voice").value) made.voice = $("voice").value;
    return made;
  }
  return { ...made, ...(await reference()) };
}

async function reference() {
  const taken = await recording.chosen();
  if (!taken) throw at("file", say("no_recording"));
  if (!$("reference_text").value.trim()) throw at("reference_text", say("no_reference_text"));
  return { ...taken, reference_text: $("reference_text").value, reference_language: $("reference_language").value };
}

function at(id, message) {
  const details = $(id).closest("details");
  if (details) details.open = true;
  $(id).focus();
  return new Refused(message);
}

async function submit(event) {
  event.preventDefault();
  if (running) running.abort();
  const mine = (running = new AbortController());
  const pressed = performance.now();
  fail("");
  clear();
  let made = null;
  try {
    // Before anything is waited for: the right to make a sound comes from the press.
    const [asked] = await Promise.all([order(), wake()]);
    if (mine !== running) return;
    status("working");
    buttons();
    made = player = new Player((told) => made === player && heard(told, pressed));
    await listen(asked, mine.signal, made);
    made.end();
  } catch (error) {
    if (made) made.stop();
    if (made === player && !(made && made.samples)) player = null;
    if (mine !== running) return;
    status(error.name === "AbortError" ? "stopped" : "");
    if (error.name !== "AbortError") fail(error.message);
  } finally {
    if (mine === running) {
      running = null;
      buttons();
    }
  }
}

async function listen(asked, signal, made) {
  for await (const line of speak(asked, signal)) {
    if (line.type === "audio") {
      made.push(line.pcm);
      wave.push(line.pcm);
      wave.draw(0);
      $("length").textContent = `${made.seconds.toFixed(2)} ${say("seconds")}`;
    } else if (line.type === "words") {
      showWords(line.words);
    } else if (line.type === "done") {
      $("factor").textContent = line.real_time_factor === null ? "–" : line.real_time_factor.toFixed(2);
    }
  }
}

function clear() {
  if (player) player.stop();
  player = null;
  words = [];
  $("words").textContent = "";
  wave.clear();
  $("figures").dataset.state = "";
  for (const id of ["first_audio", "length", "factor", "played"]) $(id).textContent = "–";
}

function showWords(told) {
  for (const word of told) {
    const element = document.createElement("span");
    element.textContent = word.word;
    const before = words.at(-1);
    // Scripts without blanks stand close; a new sentence begins after one in any case.
    const close = before && /[\u2e80-\uabff]$/.test(before.word) && before.sentence === word.sentence;
    $("words").append(...(before && !close ? [" "] : []), element);
    words.push({ ...word, element });
  }
}

// From the audio thread. A message that was on its way when Stop was pressed still arrives.
function heard({ what, played, peak, gaps }, pressed) {
  const seconds = played / RATE;
  if (what === "began") {
    const first = (performance.now() - pressed) / 1000;
    $("first_audio").textContent = `${first.toFixed(2)} ${say("seconds")}`;
    status("playing");
  }
  if (what === "gap") status("buffering");
  if (what === "playing") status("playing");
  if (what === "finished") status("done");
  if (what === "stopped") status("stopped");
  $("played").textContent = `${seconds.toFixed(2)} ${say("seconds")}`;
  Object.assign($("figures").dataset, { played, peak, gaps, state: what });
  buttons();
  wave.draw(seconds);
  mark(what === "finished" || what === "stopped" ? -1 : seconds);
}

function mark(seconds) {
  for (const { element, start, end } of words) {
    const spoken = start <= seconds && seconds < end;
    if (spoken === (element.firstElementChild !== null)) continue;
    const text = element.textContent;
    const inner = spoken ? document.createElement("mark") : document.createTextNode(text);
    if (spoken) inner.textContent = text;
    element.replaceChildren(inner);
  }
}

function buttons() {
  const sounding = player && !["finished", "stopped"].includes($("figures").dataset.state);
  $("stop").disabled = !running && !sounding;
  $("download").disabled = Boolean(running) || !(player && player.samples);
}

function stop() {
  if (running) running.abort();
  if (player) player.stop();
  status("stopped");
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(player.wav());
  link.download = "speech.wav";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// After the #, which no browser sends to any server.
async function copyLink() {
  const kept = settings();
  if (kept.source === "voice") {
    delete kept.source;
    delete kept.reference_text;
    delete kept.reference_language;
  }
  history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
  try {
    await navigator.clipboard.writeText(location.href);
    status("link_copied");
  } catch {
    status("link_in_bar");
  }
}

async function keepVoice() {
  fail("");
  $("add_voice").disabled = true;
  try {
    const name = $("new_name").value.trim();
    if (!name || !$("new_name").validity.valid) throw at("new_name", say("no_name"));
    const taken = await reference();
    status("checking");
    const { reference_language, ...given } = taken;
    await addVoice({ name, ...given, language: reference_language });
    await fillVoices(name);
    for (const radio of document.getElementsByName("source")) radio.checked = radio.value === "voice";
    showSource();
    $("status").textContent = say("added", name);
  } catch (error) {
    status("");
    fail(error.message);
  } finally {
    $("add_voice").disabled = false;
  }
}

async function connect() {
  try {
    server = await askOptions();
    const fromLink = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    fill();
    restore(fromLink);
    await fillVoices(fromLink.voice || $("voice").value);
    count();
    fail("");
    document.body.dataset.ready = "yes";
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    fail(error.message);
    if (error.message === say("needs_key")) $("key_part").open = true;
  }
}

setTongue(new URLSearchParams(location.hash.slice(1)).get("page") || currentTongue());
$("tongue").value = currentTongue();
$("tongue").addEventListener("change", () => {
  setTongue($("tongue").value);
  if ($("voice").options.length) $("voice").options[0].textContent = say("standard");
  if (server) fill();
});
$("text").addEventListener("input", count);
$("form").addEventListener("submit", submit);
$("form").addEventListener("change", showSource);
$("stop").addEventListener("click", stop);
$("download").addEventListener("click", download);
$("link").addEventListener("click", copyLink);
$("add_voice").addEventListener("click", keepVoice);
$("key").addEventListener("change", () => {
  setKey($("key").value);
  connect();
});
recording.setUp(fail);
connect();
