// One run of llama.cpp over a GGUF file: prefill, warm-up, measured tokens. Prints one JSON object.
//
//   node llama.mjs '{"model": "model.gguf", "streams": [[1, 2, 3]], "prompt": 1, "warm_up": 1, "tokens": 1, "threads": 2}'
//
// Each of "streams" is a sequence of one context, and each batch holds a token of every one of them. Tokens are
// given, not sampled, so that every program computes the same sequence; the choice of the next token is still made
// (greedily), because a user pays for it. Run it in the folder that holds node_modules.
import { readFileSync } from "node:fs";
import { getLlama } from "node-llama-cpp";

const task = JSON.parse(process.argv[2]);
const needed = task.prompt + task.warm_up + task.tokens;
for (const ids of task.streams) {
  if (ids.length < needed) throw new Error(`${ids.length} token ids, ${needed} are needed`);
}

function diskBytes() {
  return Number(/^read_bytes: (\d+)$/m.exec(readFileSync("/proc/self/io", "utf8"))[1]);
}

function field(name) {
  return 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(readFileSync("/proc/self/status", "utf8"))[1]);
}

// What has been spent so far; spent(since) is the difference.
function now() {
  const cpu = process.cpuUsage();
  return { seconds: performance.now() / 1e3, cpu: (cpu.user + cpu.system) / 1e6, disk: diskBytes() };
}

// `tokens` are those of all streams together.
function spent(since, tokens) {
  const end = now();
  const seconds = end.seconds - since.seconds;
  return {
    tokens,
    seconds,
    tokens_per_second: tokens / seconds,
    cpu_seconds_per_token: (end.cpu - since.cpu) / tokens,
    disk_bytes_per_token: (end.disk - since.disk) / tokens,
  };
}

// Takes all that waits, and counts it: streams that miss a batch would make the comparison worthless.
let batches = 0;
let rows = 0;
function takeAll({ items }) {
  ++batches;
  return items.map((item) => {
    rows += item.tokens.length;
    return { item, processAmount: item.tokens.length };
  });
}

const started = now();
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: task.threads });
const model = await llama.loadModel({ modelPath: task.model, useMmap: true, gpuLayers: 0 });
const count = task.streams.length;
const context = await model.createContext({
  sequences: count,
  contextSize: Math.ceil((needed + 1) / 256) * 256, // of each sequence
  // All prompts in one pass, so that a file that does not fit into memory is read once for them.
  batchSize: Math.max(task.prompt, 1) * count,
  threads: { ideal: task.threads, min: task.threads },
  batching: { itemPrioritizationStrategy: takeAll },
});
const streams = task.streams.map((ids) => ({ ids, sequence: context.getSequence() }));
const load = now().seconds - started.seconds;

const beforePrefill = now();
await Promise.all(
  streams.map(({ ids, sequence }) => sequence.evaluateWithoutGeneratingNewTokens(ids.slice(0, task.prompt))),
);
const prefill = spent(beforePrefill, task.prompt * count);

// next(id) evaluates that id instead of the one the model chose.
const steps = streams.map(({ ids, sequence }) =>
  sequence.evaluate([ids[task.prompt]], { temperature: 0, yieldEogToken: true }),
);
let beforeDecode = now();
for (let i = 0; i < task.warm_up + task.tokens; ++i) {
  if (i === task.warm_up) {
    batches = rows = 0;
    beforeDecode = now();
  }
  await Promise.all(steps.map((step, n) => (i === 0 ? step.next() : step.next(streams[n].ids[task.prompt + i]))));
}
const decode = task.tokens > 0 ? spent(beforeDecode, task.tokens * count) : null;
if (decode !== null && (batches !== task.tokens || rows !== decode.tokens)) {
  throw new Error(`${rows} tokens of ${count} streams came in ${batches} batches, not in ${task.tokens}`);
}

process.stdout.write(
  JSON.stringify({ load_seconds: load, prefill, decode, peak_rss_bytes: field("VmHWM"), anonymous_bytes: field("RssAnon") }) + "\n",
);
process.exit(0);
