// Streams that end early: cancelled, out of time, turned away, drained. The store's flash is modelled as
// slow (dense decoding reads megabytes for each token), so a long stream is certain to be still
// running when a test interrupts it, whatever the machine.
import assert from 'node:assert/strict';
import { after, afterEach, before, describe, it } from 'node:test';
import { Client, errorDetails, status } from './client.mjs';
import { eventually, Service } from './daemons.mjs';

const slowFlash = ['--flash-model', 'bandwidth=40MB/s,latency=100us,iops=100k'];
const endless = {
  text: 'Once upon a time', max_tokens: 240, stop: { ignore_eos: true },
  pruning: { mode: 'DECODE_MODE_DENSE' },
};

async function start(engineArgs) {
  const service = await Service.start({ storeArgs: slowFlash, engineArgs });
  const client = await Client.connect(service.address);
  await eventually('readiness', async () => (await client.check('readiness')).status === 'SERVING');
  return { service, client };
}

const idle = (service) => eventually('nothing runs or waits', async () =>
  await service.metric('tidegate_requests_running') === 0
  && await service.metric('tidegate_requests_waiting') === 0);

describe('an interrupted stream', () => {
  let service;
  let client;
  before(async () => {
    ({ service, client } = await start(['--max-running', '1', '--max-waiting', '1']));
  });
  afterEach(() => idle(service));
  after(async () => {
    client?.close();
    await service?.stop();
  });

  it('frees its place when the client cancels', async () => {
    const stream = client.generate(endless);
    await stream.until('delta');
    assert.equal(await service.metric('tidegate_requests_running'), 1);
    stream.cancel();
    const { error, events } = await stream.done;
    assert.equal(error?.code, status.CANCELLED);
    assert.ok(events.every((event) => event.event !== 'finished'));
    await idle(service);
    const next = await client.generate({ ...endless, max_tokens: 2 }).collect();
    assert.equal(next.ids.length, 2);
  });

  it('frees its place at its deadline', async () => {
    for (const milliseconds of [1, 50, 400]) {
      const { error } = await client.generate(endless, { deadline: Date.now() + milliseconds }).done;
      assert.equal(error?.code, status.DEADLINE_EXCEEDED, `${milliseconds} ms`);
      await idle(service);
    }
  });

  it('keeps its text when its own time limit passes', async () => {
    const { finished, ids } = await client.generate(
      { ...endless, max_duration: { seconds: '0', nanos: 500_000_000 } }).collect();
    assert.equal(finished.finish_reason, 'FINISH_REASON_TIME_LIMIT');
    assert.equal(ids.length, finished.usage.generated_tokens);
    assert.ok(ids.length < endless.max_tokens);
  });

  it('makes others wait, and turns away what the queue cannot hold', async () => {
    const running = client.generate(endless);
    await running.until('delta');
    const waiting = client.generate({ ...endless, max_tokens: 2 });
    await eventually('one request waits', async () =>
      await service.metric('tidegate_requests_waiting') === 1);

    const { error } = await client.generate(endless).done;
    assert.equal(error?.code, status.RESOURCE_EXHAUSTED);
    const details = errorDetails(error);
    assert.equal(details.ErrorInfo.reason, 'QUEUE_FULL');
    const delay = details.RetryInfo.retry_delay;
    assert.ok(delay.seconds + delay.nanos * 1e-9 > 0, 'a retry delay is given');

    running.cancel();
    await running.done;
    assert.equal((await waiting.collect()).ids.length, 2);
  });

  it('frees the queue when a waiting client cancels', async () => {
    const running = client.generate(endless);
    await running.until('delta');
    const waiting = client.generate(endless);
    await eventually('one request waits', async () =>
      await service.metric('tidegate_requests_waiting') === 1);
    waiting.cancel();
    assert.equal((await waiting.done).error?.code, status.CANCELLED);
    await eventually('none waits', async () =>
      await service.metric('tidegate_requests_waiting') === 0);
    assert.equal(await service.metric('tidegate_requests_running'), 1);
    running.cancel();
    await running.done;
  });
});

describe('SIGTERM', () => {
  it('lets a running stream finish, refuses new ones, then exits with 0', async () => {
    const { service, client } = await start(['--drain-timeout', '60s']);
    try {
      const stream = client.generate({ ...endless, max_tokens: 20 });
      await stream.until('delta');
      service.engine.child.kill('SIGTERM');
      await eventually('new streams are refused', async () => {
        const { error } = await client.generate({ ...endless, max_tokens: 1 }).done;
        return error?.code === status.UNAVAILABLE;
      });
      const { ids, finished } = await stream.collect();
      assert.equal(finished.finish_reason, 'FINISH_REASON_MAX_TOKENS');
      assert.equal(ids.length, 20);
      assert.deepEqual(await service.engine.exited, { code: 0, signal: null });
      assert.deepEqual(await service.store.stop(), { code: 0, signal: null });
    } finally {
      client.close();
      await service.stop();
    }
  });

  it('keeps the text of a stream that outlasts the drain timeout', async () => {
    const { service, client } = await start(['--drain-timeout', '300ms']);
    try {
      const stream = client.generate(endless);
      await stream.until('delta');
      service.engine.child.kill('SIGTERM');
      const { ids, finished } = await stream.collect();
      assert.equal(finished.finish_reason, 'FINISH_REASON_DRAINING');
      assert.equal(ids.length, finished.usage.generated_tokens);
      assert.deepEqual(await service.engine.exited, { code: 0, signal: null });
    } finally {
      client.close();
      await service.stop();
    }
  });
});
