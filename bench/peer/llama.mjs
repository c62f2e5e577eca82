// One run of llama.cpp over a GGUF file: prefill, warm-up, measured tokens. Prints one JSON object.
//
//   node llama.mjs '{"model": "model.gguf", "ids": [1, 2, 3], "prompt": 1, "warm_up": 1, "tokens": 1, "threads": 2}'
//
// Tokens are given, not sampled, so that every program computes the same sequence; the choice of the next
// token is still made (greedily), because a user pays for it. Run it in the folder that holds node_modules.
import { readFileSync } from "node:fs";
import { getLlama } from "node-llama-cpp";

const task = JSON.parse(process.argv[2]);
const needed = task.prompt + task.warm_up + task.tokens;
if (task.ids.length < needed) throw new Error(`${task.ids.length} token ids, ${needed} are needed`);

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

const started = now();
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: task.threads });
const model = await llama.loadModel({ modelPath: task.model, useMmap: true, gpuLayers: 0 });
const context = await model.createContext({
  contextSize: Math.ceil((needed + 1) / 256) * 256,
  // The whole prompt in one pass, so that a file that does not fit into memory is read once for it.
  batchSize: Math.max(task.prompt, 1),
  threads: { ideal: task.threads, min: task.threads },
});
const sequence = context.getSequence();
const load = now().seconds - started.seconds;

const beforePrefill = now();
await sequence.evaluateWithoutGeneratingNewTokens(task.ids.slice(0, task.prompt));
const prefill = spent(beforePrefill, task.prompt);

// next(id) evaluates that id instead of the one the model chose.
const steps = sequence.evaluate([task.ids[task.prompt]], { temperature: 0, yieldEogToken: true });
let at = task.prompt + 1;
let beforeDecode = now();
for (let i = 0; i < task.warm_up + task.tokens; ++i) {
  if (i === task.warm_up) beforeDecode = now();
  await (i === 0 ? steps.next() : steps.next(task.ids[at++]));
}
const decode = task.tokens > 0 ? spent(beforeDecode, task.tokens) : null;

process.stdout.write(
  JSON.stringify({ load_seconds: load, prefill, decode, peak_rss_bytes: field("VmHWM"), anonymous_bytes: field("RssAnon") }) + "\n",
);
process.exit(0);
