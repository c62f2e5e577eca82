// Starts and stops the real tidegate-store and tidegate-engine, and reads their metrics.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { get } from 'node:http';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { tmpdir } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';

const buildDir = process.env.TIDEGATE_BUILD_DIR;
export const sourceDir = process.env.TIDEGATE_SOURCE_DIR;
const startLimitMs = 60_000;

// Polls until `probe` answers something truthy; fails with `what` after the limit.
export async function eventually(what, probe, limitMs = 20_000) {
  const end = Date.now() + limitMs;
  for (;;) {
    const answer = await probe();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`not within ${limitMs} ms: ${what}`);
    await delay(10);
  }
}

// A child process whose output is kept for failure messages.
class Daemon {
  constructor(name, args) {
    this.name = name;
    this.output = '';
    this.child = spawn(join(buildDir, name), args, { stdio: ['ignore', 'pipe', 'pipe'] });
    // Not 'exit': that may come before the last output.
    this.exited = once(this.child, 'close').then(([code, signal]) => ({ code, signal }));
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.on('data', (data) => { this.output += data; });
    }
  }

  get running() { return this.child.exitCode === null && this.child.signalCode === null; }

  // Content of a file that the daemon writes once it listens.
  async written(file) {
    return eventually(`${this.name} writes ${file}\n${this.output}`, async () => {
      if (!this.running) {
        const { code, signal } = await this.exited;
        throw new Error(`${this.name} ended at start with ${signal ?? code}:\n${this.output}`);
      }
      return existsSync(file) && readFileSync(file, 'utf8').trim();
    }, startLimitMs);
  }

  // Sends SIGTERM (or another signal) and answers {code, signal}.
  async stop(signal = 'SIGTERM') {
    if (this.running) this.child.kill(signal);
    return this.exited;
  }
}

// Packs the demo model into `folder` with some more flags and answers the pack's path.
function packDemoModel(folder, packArgs) {
  const pack = join(folder, 'demo.tgpack');
  const model = join(sourceDir, 'models', 'stories-7M.f16.gguf');
  const run = spawnSync(join(buildDir, 'tidegate'), ['pack', model, '-o', pack, ...packArgs],
    { encoding: 'utf8' });
  if (run.status !== 0) throw new Error(`tidegate pack failed:\n${run.stdout}${run.stderr}`);
  return pack;
}

// A store and an engine on private sockets and free ports. `packArgs`, `storeArgs` and `engineArgs` are
// extra flags.
export class Service {
  static async start({
    packArgs = ['--units', 'q8'], budget = '7MiB', storeArgs = [], engineArgs = [],
  } = {}) {
    const service = new Service();
    service.folder = mkdtempSync(join(existsSync('/dev/shm') ? '/dev/shm' : tmpdir(), 'tidegate-e2e-'));
    try {
      await service.#startStore(packDemoModel(service.folder, packArgs), ['--memory-budget', budget, ...storeArgs]);
      await service.#startEngine(engineArgs);
    } catch (error) {
      await service.stop();
      throw error;
    }
    return service;
  }

  async #startStore(pack, extra) {
    this.socket = join(this.folder, 'store.sock');
    const portFile = join(this.folder, 'store-metrics.port');
    this.store = new Daemon('tidegate-store', [
      '--pack', pack, '--socket', this.socket, '--region-dir', this.folder,
      '--metrics-listen', '127.0.0.1:0', '--metrics-port-file', portFile, ...extra]);
    this.storeMetricsPort = await this.store.written(portFile);
  }

  async #startEngine(extra) {
    const portFile = join(this.folder, 'engine.port');
    const metricsPortFile = join(this.folder, 'engine-metrics.port');
    const httpPortFile = join(this.folder, 'engine-http.port');
    this.engine = new Daemon('tidegate-engine', [
      '--store-socket', this.socket, '--listen', '127.0.0.1:0', '--port-file', portFile,
      '--metrics-listen', '127.0.0.1:0', '--metrics-port-file', metricsPortFile,
      '--http-listen', '127.0.0.1:0', '--http-port-file', httpPortFile, ...extra]);
    this.address = `127.0.0.1:${await this.engine.written(portFile)}`;
    this.metricsPort = await this.engine.written(metricsPortFile);
    this.http = `http://127.0.0.1:${await this.engine.written(httpPortFile)}`;
  }

  // Sum over all label sets of one metric of the engine (or of the store).
  // One connection per page: the server may close an idle one just as it would be used again.
  async metric(name, port = this.metricsPort) {
    const [answer] = await once(get({ host: '127.0.0.1', port, path: '/metrics', agent: false }), 'response');
    const page = await text(answer);
    const values = page.split('\n')
      .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
      .map((line) => Number(line.slice(line.lastIndexOf(' '))));
    if (values.length === 0) throw new Error(`no metric ${name} on port ${port}`);
    return values.reduce((sum, value) => sum + value, 0);
  }

  async stop() {
    await this.engine?.stop();
    await this.store?.stop();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
