// The page's words in its two languages, and how they get onto it.

const WORDS = {
  en: {
    tagline: "Type a text, choose a voice, listen.",
    page_language: "Page in",
    text: "Text", language: "Language of the text", speak_as: "Speak as",
    a_voice: "a voice of the server", a_recording: "my own recording", voice: "Voice",
    recording: "Recording: 3 to 10 seconds of clean speech",
    file: "Sound file", microphone: "Microphone", record: "Record", recording_now: "Stop recording",
    reference_text: "What is said in it", reference_language: "Its language",
    new_name: "Keep it as the voice", add_voice: "Add voice",
    options: "Options", api_key: "API key", key: "Key, where the server asks for one",
    speak: "Speak", stop: "Stop", download: "Download WAV", link: "Copy link",
    heard: "Speech", first_audio: "First audio", length: "Length", factor: "Real-time factor",
    played: "Played", default: "default", seconds: "s", standard: "the server's choice",
    from_to: (low, high) => `${low} to ${high}`,
    above_to: (low, high) => `above ${low}, up to ${high}`,
    seed_range: "empty: another one each time",
    count: (n, most) => `${n} of ${most} characters`,
    wave: "Waveform of the speech; the dark part has been played",
    working: "Waiting for the first audio…", playing: "Speaking…", buffering: "Waiting for more audio…",
    done: "Done.", stopped: "Stopped.", link_copied: "The link is on the clipboard.",
    link_in_bar: "The link is in the address bar.",
    no_text: "Write something to say first.", too_long: (most) => `The text is too long; at most ${most} characters.`,
    no_recording: "Choose a sound file or record one first.",
    no_reference_text: "Write down what is said in the recording.",
    no_name: "Give the voice a name: letters, digits, “_”, “.”, “-”.",
    checking: "Listening to the recording…",
    good: (seconds) => `Fit to speak with: ${seconds} s.`,
    unfit: "This recording can't be used:", hints: "It can be used, but:",
    piece: (a, b) => `Use the best piece of it, from ${a} to ${b} s`,
    no_microphone: "The microphone can't be used: the browser refused it, or there is none.",
    added: (name) => `The voice ${name} has been added.`,
    needs_key: "This server asks for an API key. Enter it under “API key”.",
    unreachable: "The server can't be reached. Is it running?",
    broke_off: "The speech broke off before its end.",
    out_of_range: (name, range) => `${name}: allowed is ${range}.`,
    o_speed: "Speed", o_seed: "Seed", o_sample_steps: "Steps of flow matching", o_top_k: "Top k",
    o_top_p: "Top p", o_temperature: "Temperature", o_repetition_penalty: "Repetition penalty",
    o_pause_seconds: "Pause after a sentence (s)", o_split_method: "How sentences are cut",
    split: { cut0: "not at all", cut1: "every four sentences", cut2: "about 50 characters", cut3: "at 。", cut4: "at full stops", cut5: "at every mark" },
    tongue: { auto: "detect", auto_yue: "detect, Cantonese", zh: "Chinese and English", en: "English", ja: "Japanese and English", ko: "Korean and English", yue: "Cantonese and English", all_zh: "Chinese", all_ja: "Japanese", all_ko: "Korean", all_yue: "Cantonese" },
  },
  zh: {
    tagline: "输入文字，选择音色，试听效果。",
    page_language: "页面语言",
    text: "文本", language: "文本语言", speak_as: "使用",
    a_voice: "服务器上的音色", a_recording: "我自己的录音", voice: "音色",
    recording: "录音：3 到 10 秒清晰的人声",
    file: "音频文件", microphone: "麦克风", record: "录音", recording_now: "停止录音",
    reference_text: "录音中说的内容", reference_language: "录音语言",
    new_name: "保存为音色", add_voice: "添加音色",
    options: "选项", api_key: "API 密钥", key: "密钥（服务器要求时填写）",
    speak: "合成", stop: "停止", download: "下载 WAV", link: "复制链接",
    heard: "语音", first_audio: "首包时间", length: "时长", factor: "实时率",
    played: "已播放", default: "默认", seconds: "秒", standard: "由服务器决定",
    from_to: (low, high) => `${low} 到 ${high}`,
    above_to: (low, high) => `大于 ${low}，不超过 ${high}`,
    seed_range: "留空则每次不同",
    count: (n, most) => `${n} / ${most} 个字符`,
    wave: "语音波形，深色部分已播放",
    working: "正在等待首段音频……", playing: "正在播放……", buffering: "正在等待后续音频……",
    done: "完成。", stopped: "已停止。", link_copied: "链接已复制。", link_in_bar: "链接在地址栏中。",
    no_text: "请先输入要合成的文字。", too_long: (most) => `文本过长，最多 ${most} 个字符。`,
    no_recording: "请先选择音频文件或录音。", no_reference_text: "请填写录音中说的内容。",
    no_name: "请填写音色名称：字母、数字、“_”、“.”、“-”。",
    checking: "正在检查录音……",
    good: (seconds) => `录音可用：${seconds} 秒。`,
    unfit: "这段录音不能使用：", hints: "可以使用，但请注意：",
    piece: (a, b) => `使用其中最好的一段：${a} 到 ${b} 秒`,
    no_microphone: "无法使用麦克风：浏览器拒绝了访问，或没有麦克风。",
    added: (name) => `已添加音色 ${name}。`,
    needs_key: "此服务器需要 API 密钥，请在“API 密钥”中填写。",
    unreachable: "无法连接服务器，它在运行吗？",
    broke_off: "语音在结束前中断了。",
    out_of_range: (name, range) => `${name}：允许的范围是 ${range}。`,
    o_speed: "语速", o_seed: "随机种子", o_sample_steps: "采样步数", o_top_k: "Top k",
    o_top_p: "Top p", o_temperature: "温度", o_repetition_penalty: "重复惩罚",
    o_pause_seconds: "句间停顿（秒）", o_split_method: "切句方式",
    split: { cut0: "不切", cut1: "凑四句一切", cut2: "凑 50 字一切", cut3: "按中文句号切", cut4: "按英文句号切", cut5: "按标点符号切" },
    tongue: { auto: "自动识别", auto_yue: "自动识别（粤语）", zh: "中英混合", en: "英文", ja: "日英混合", ko: "韩英混合", yue: "粤英混合", all_zh: "中文", all_ja: "日文", all_ko: "韩文", all_yue: "粤语" },
  },
};

let tongue = navigator.language.startsWith("zh") ? "zh" : "en";

export const say = (name, ...values) => {
  const found = WORDS[tongue][name];
  return typeof found === "function" ? found(...values) : found;
};
export const currentTongue = () => tongue;

export function setTongue(chosen) {
  tongue = chosen in WORDS ? chosen : "en";
  document.documentElement.lang = tongue === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = say(element.dataset.text);
  }
}
