// The protobuf contracts by buf: its lint, and that nothing is taken away which clients of the last release
// rely on. tests/testdata/contracts.binpb has the contracts of that release; see README.md.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { sourceDir } from './daemons.mjs';

const buf = join(process.cwd(), 'node_modules', '.bin', 'buf');
const released = join(sourceDir, 'tests', 'testdata', 'contracts.binpb');

describe('the contracts', () => {
  let folder;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'tidegate-contracts-'));
    cpSync(join(sourceDir, 'proto'), join(folder, 'proto'), { recursive: true });
    cpSync(join(sourceDir, 'buf.yaml'), join(folder, 'buf.yaml'));
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  // The lines that buf prints about what it finds.
  function findings(...args) {
    const run = spawnSync(buf, args, {
      cwd: folder, encoding: 'utf8', env: { ...process.env, XDG_CACHE_HOME: join(folder, 'cache') } });
    assert.ok(run.status === 0 || run.status === 100, `buf ${args}: ${run.stderr ?? run.error}`);
    return run.stdout;
  }

  it('have no lint', () => {
    assert.equal(findings('lint'), '');
  });

  it('break nobody, and breaking somebody is found', () => {
    assert.equal(findings('breaking', '--against', released), '');
    const file = join(folder, 'proto', 'tidegate', 'v1', 'generation.proto');
    const text = readFileSync(file, 'utf8');
    writeFileSync(file, text.replace('optional uint32 max_tokens = 4;', 'optional uint32 max_tokens = 400;'));
    assert.match(findings('breaking', '--against', released), /max_tokens/);
    writeFileSync(file, text);
  });
});
