// A service with keys: who may do what, what a key may use, and what is written about it.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Client, errorDetails, listServices, status } from './client.mjs';
import { eventually, Service } from './daemons.mjs';

const prompt = 'Once upon a time there was a secretprompt';

// A new key and its line of the key file.
function makeKey(...flags) {
  const run = spawnSync(join(process.env.TIDEGATE_BUILD_DIR, 'tidegate'), ['key', 'new', ...flags],
    { encoding: 'utf8' });
  assert.equal(run.status, 0, run.stderr);
  return { key: run.stderr.trim(), line: run.stdout };
}

describe('a service with keys', () => {
  const folder = mkdtempSync(join(tmpdir(), 'tidegate-keys-'));
  const keyFile = join(folder, 'keys');
  const auditFile = join(folder, 'audit');
  const root = makeKey('--id', 'root', '--scopes', 'admin,infer,model.read,metrics');
  const team = makeKey('--id', 'team', '--scopes', 'infer', '--tokens-per-minute', '60');
  const reader = makeKey('--id', 'reader', '--scopes', 'model.read,tokenize');
  const clients = [];
  let service;
  let asRoot;
  const as = (key) => {
    clients.push(asRoot.as(key));
    return clients.at(-1);
  };
  const audit = () => readFileSync(auditFile, 'utf8').trim().split('\n').map((line) => JSON.parse(line));

  before(async () => {
    writeFileSync(keyFile, root.line + team.line + reader.line, { mode: 0o600 });
    service = await Service.start({ engineArgs: ['--access-keys', keyFile, '--audit-log', auditFile] });
    asRoot = await Client.connect(service.address, undefined, root.key);
    clients.push(asRoot);
    await eventually('readiness', async () => (await asRoot.check('readiness')).status === 'SERVING');
  });
  after(async () => {
    for (const client of clients) client.close();
    await service?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  it('leaves health open and shows its services to admins alone', async () => {
    assert.equal((await as(undefined).check('')).status, 'SERVING');
    assert.ok((await listServices(service.address, root.key)).includes('tidegate.v1.ModelService'));
    await assert.rejects(listServices(service.address), { code: status.UNAUTHENTICATED });
    await assert.rejects(listServices(service.address, team.key), { code: status.PERMISSION_DENIED });
  });

  it('opens to a key what its scopes say', async () => {
    await as(reader.key).getModel();
    await as(reader.key).tokenize({ text: prompt });
    await assert.rejects(as(team.key).getModel(), (error) => {
      assert.equal(error.code, status.PERMISSION_DENIED);
      assert.equal(errorDetails(error).ErrorInfo.reason, 'API_KEY_SCOPE');
      return true;
    });
    for (const key of [undefined, 'tg-guess', `${team.key}x`]) {
      const { error } = await as(key).generate({ text: prompt }).done;
      assert.equal(error.code, status.UNAUTHENTICATED);
    }
  });

  it('holds a key to its tokens and says when to come again', async () => {
    const { finished } = await as(team.key).generate({ text: prompt, max_tokens: 5 }).collect();
    const used = finished.usage.prompt_tokens + finished.usage.generated_tokens;
    assert.ok(used < 60);
    const { error } = await as(team.key).generate({ text: prompt, max_tokens: 1000 }).done;
    assert.equal(error.code, status.RESOURCE_EXHAUSTED);
    const details = errorDetails(error);
    assert.equal(details.ErrorInfo.reason, 'TOKEN_RATE_LIMIT');
    assert.equal(details.QuotaFailure.violations.length, 1);
    assert.ok(details.RetryInfo.retry_delay.seconds < 60);
  });

  it('shows its metrics to keys with that scope', async () => {
    const scrape = async (key) => (await fetch(`http://127.0.0.1:${service.metricsPort}/metrics`,
      { headers: key ? { authorization: `Bearer ${key}` } : {} }));
    assert.equal((await scrape()).status, 401);
    assert.equal((await scrape(team.key)).status, 403);
    const page = await scrape(root.key);
    assert.equal(page.status, 200);
    assert.match(await page.text(), /tidegate_auth_failures_total\{reason="missing"\} [1-9]/);
  });

  it('forgets a key that was removed, and keeps its keys when the file is broken', async () => {
    writeFileSync(keyFile, 'this is no key');
    service.engine.child.kill('SIGHUP');
    await eventually('the log names the line', () => service.engine.output.includes('line 1'));
    await as(reader.key).getModel();
    writeFileSync(keyFile, root.line + team.line);
    service.engine.child.kill('SIGHUP');
    await eventually('the key is gone', async () => {
      try {
        await as(reader.key).getModel();
        return false;
      } catch (error) {
        return error.code === status.UNAUTHENTICATED;
      }
    });
    await asRoot.getModel();
  });

  it('has written who did what, without texts and keys', async () => {
    await eventually('the last call is written', () => audit().at(-1).key === 'root');
    const lines = audit();
    const text = lines.find((line) => line.method === 'Generate' && line.status === 'OK');
    assert.equal(text.key, 'team');
    assert.equal(text.model, 'stories-7M');
    assert.equal(text.generated_tokens, 5);
    assert.ok(lines.some((line) => line.reason === 'API_KEY_INVALID' && line.key === undefined));
    const written = readFileSync(auditFile, 'utf8') + service.engine.output;
    assert.doesNotMatch(written, /secretprompt|tg-/);
  });
});
