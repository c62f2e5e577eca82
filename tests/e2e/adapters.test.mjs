// LoRA adapters at the engine's start: in use they are as if merged, and a broken one is named.
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Client } from './client.mjs';
import { eventually, Service, sourceDir } from './daemons.mjs';

const adapter = join(sourceDir, 'models', 'stories-7M.dip-lora.gguf');
// Units in full precision, which merging does not round; memory for a half of them and for the adapter.
const units = ['--units', 'f32'];
const sizes = { budget: '20MiB', storeArgs: ['--engine-reserve', '5MiB'] };

// What a service of these flags continues a prompt with, most likely tokens only, and its model.
async function answerOf({ packArgs = [], engineArgs = [] }) {
  const service = await Service.start({ ...sizes, packArgs: [...units, ...packArgs], engineArgs });
  let client;
  try {
    client = await Client.connect(service.address);
    await eventually('readiness', async () => (await client.check('readiness')).status === 'SERVING');
    const { ids } = await client.generate({
      text: 'Once upon a time', max_tokens: 40, sampling: { temperature: 0 },
      stop: { ignore_eos: true }, pruning: { density: 0.5, reproducible: true },
    }).collect();
    return { ids, model: (await client.getModel()).model };
  } finally {
    client?.close();
    await service.stop();
  }
}

describe('tidegate-engine --lora', () => {
  let folder;
  before(() => { folder = mkdtempSync(join(tmpdir(), 'tidegate-e2e-')); });
  after(() => rmSync(folder, { recursive: true, force: true }));

  it('generates what the pack with the merged adapter does', async () => {
    const plain = await answerOf({});
    const beside = await answerOf({ engineArgs: ['--lora', `${adapter}=1`] });
    const merged = await answerOf({ packArgs: ['--lora', `${adapter}=1`] });
    assert.equal(beside.ids.length, 40);
    assert.deepEqual(beside.ids, merged.ids);
    assert.notDeepEqual(beside.ids, plain.ids);
    assert.deepEqual(beside.model.adapters, ['stories-7M.dip-lora.gguf x 1']);
    assert.deepEqual(plain.model.adapters, []);
  });

  it('ends the engine over a broken file, with its name and what is wrong', async () => {
    const cut = join(folder, 'cut.gguf');
    writeFileSync(cut, readFileSync(adapter).subarray(0, 100_000));
    const text = join(folder, 'text.gguf');
    writeFileSync(text, 'hello there');
    const missing = join(folder, 'missing.gguf');
    for (const [file, reason] of [[cut, 'truncated'], [text, 'hello there'], [missing, 'No such file']]) {
      const start = async () => (await Service.start({ engineArgs: ['--lora', file] })).stop();
      await assert.rejects(start, (error) => {
        assert.match(error.message, /^tidegate-engine ended at start with 1:/);
        const line = error.message.split('\n').find((one) => one.includes('engine error: '));
        assert.ok(line?.includes(file) && line.includes(reason), error.message);
        return true;
      });
    }
  });
});
