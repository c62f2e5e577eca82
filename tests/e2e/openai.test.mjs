// The HTTP API, asked by OpenAI's own client for Node. The store's flash is modelled as slow, so that a
// dense stream is certain to be still running when it is aborted.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import OpenAI from 'openai';
import { Client } from './client.mjs';
import { eventually, Service, sourceDir } from './daemons.mjs';

const slowFlash = ['--flash-model', 'bandwidth=40MB/s,latency=100us,iops=100k'];
const chatTemplate = join(sourceDir, 'tests', 'e2e', 'chat.jinja');
const sampling = { temperature: 0, seed: 1 };
const exact = { ...sampling, pruning: { mode: 'dip', density: 0.5, reproducible: true } };
const messages = [{ role: 'user', content: 'Once upon a time' }];

async function collect(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
}

describe('the OpenAI client', () => {
  let service;
  let openai;
  let model;

  before(async () => {
    service = await Service.start({ storeArgs: slowFlash, engineArgs: [
      '--chat-template', chatTemplate, '--model-alias', 'gpt-4o', '--http-allow-origin', 'https://chat.example'] });
    openai = new OpenAI({ baseURL: `${service.http}/v1`, apiKey: 'none', maxRetries: 0 });
    await eventually('health', async () => (await fetch(`${service.http}/health`)).status === 200);
    model = (await openai.models.list()).data[0].id;
  });
  after(() => service?.stop());

  it('lists models and finds one by its alias', async () => {
    const { data } = await openai.models.list();
    assert.deepEqual(data.map((one) => one.id), [model, 'gpt-4o']);
    assert.equal((await openai.models.retrieve('gpt-4o')).object, 'model');
    await assert.rejects(openai.models.retrieve('none'), OpenAI.NotFoundError);
  });

  it('chats, whole and as a stream', async () => {
    const request = { model: 'gpt-4o', messages, max_completion_tokens: 12, ...exact };
    const { data: whole, request_id: id } = await openai.chat.completions.create(request).withResponse();
    assert.equal(whole.object, 'chat.completion');
    assert.equal(whole.id, `chatcmpl-${id}`);
    assert.equal(whole.model, model);
    assert.equal(whole.choices[0].message.role, 'assistant');
    assert.equal(whole.choices[0].finish_reason, 'length');
    assert.equal(whole.usage.completion_tokens, 12);
    assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + 12);

    const chunks = await collect(await openai.chat.completions.create(
      { ...request, stream: true, stream_options: { include_usage: true } }));
    assert.equal(chunks[0].choices[0].delta.role, 'assistant');
    const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? '').join('');
    assert.equal(text, whole.choices[0].message.content);
    const last = chunks.at(-1);
    assert.deepEqual(last.choices, []);
    assert.equal(last.usage.completion_tokens, 12);
    assert.equal(typeof last.usage.prompt_tokens_details.cached_tokens, 'number');
    assert.equal(chunks.at(-2).choices[0].finish_reason, 'length');
  });

  it('collects a stream with the client\'s own helper', async () => {
    const final = await openai.chat.completions
      .stream({ model, messages, max_tokens: 5, logprobs: true, top_logprobs: 2, ...exact }).finalChatCompletion();
    assert.equal(final.choices[0].logprobs.content.length, 5);
    for (const one of final.choices[0].logprobs.content) {
      assert.equal(one.top_logprobs.length, 2);
      assert.ok(one.logprob <= 0);
      assert.deepEqual(one.bytes, [...Buffer.from(one.token)]);
    }
  });

  it('completes text and ids, with log-probabilities and a stop string', async () => {
    const request = { model, prompt: 'Once upon a time', max_tokens: 20, logprobs: 1, ...exact };
    const whole = await openai.completions.create(request);
    const [choice] = whole.choices;
    assert.equal(whole.object, 'text_completion');
    assert.equal(choice.logprobs.tokens.join(''), choice.text);
    assert.equal(choice.logprobs.token_logprobs.length, 20);
    assert.equal(choice.logprobs.text_offset[0], 0);

    const word = choice.text.trim().split(' ')[3];
    const stopped = await openai.completions.create({ ...request, stop: word });
    assert.equal(stopped.choices[0].finish_reason, 'stop');
    assert.equal(stopped.choices[0].text, choice.text.slice(0, choice.text.indexOf(word)));

    const chunks = await collect(await openai.completions.create({ ...request, stream: true }));
    assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(''), choice.text);
    const client = await Client.connect(service.address);
    const { ids } = await client.generate({ text: 'Once upon a time', max_tokens: 20, sampling,
      pruning: { mode: 'DECODE_MODE_DIP', density: 0.5, reproducible: true } }).collect();
    const { text } = await client.detokenize({ token_ids: ids });
    client.close();
    assert.equal(text.trim(), choice.text.trim());
  });

  it('gives several choices of one prompt', async () => {
    const request = { model, messages, max_tokens: 6, n: 2, temperature: 1, seed: 5 };
    const whole = await openai.chat.completions.create(request);
    assert.deepEqual(whole.choices.map((choice) => choice.index), [0, 1]);
    assert.equal(whole.usage.completion_tokens, 12);
    const chunks = await collect(await openai.chat.completions.create({ ...request, stream: true }));
    for (const { index } of whole.choices) {
      const own = chunks.flatMap((chunk) => chunk.choices).filter((choice) => choice.index === index);
      assert.equal(own[0].delta.role, 'assistant');
      assert.equal(own.at(-1).finish_reason, 'length');
    }
  });

  it('frees the place of a stream that it aborts', async () => {
    const stream = await openai.completions.create({
      model, prompt: 'Once upon a time', max_tokens: 240, ignore_eos: true, stream: true, pruning: { mode: 'dense' } });
    for await (const chunk of stream) {
      assert.equal(chunk.choices[0].finish_reason, null);
      break;  // aborts the request
    }
    await eventually('nothing runs', async () => await service.metric('tidegate_requests_running') === 0);
    assert.equal(await service.metric('tidegate_cancellations_total'), 1);
    const controller = new AbortController();
    const whole = openai.completions.create({
      model, prompt: 'Once', max_tokens: 240, ignore_eos: true, pruning: { mode: 'dense' } },
    { signal: controller.signal });
    await eventually('it runs', async () => await service.metric('tidegate_requests_running') === 1);
    controller.abort();
    await assert.rejects(whole, OpenAI.APIUserAbortError);
    await eventually('nothing runs', async () => await service.metric('tidegate_requests_running') === 0);
  });

  it('gets errors as its own classes', async () => {
    const bad = (fields) => openai.chat.completions.create({ model, messages, ...fields });
    const cases = [
      [{ temperature: 200 }, OpenAI.BadRequestError, 'temperature'],
      [{ tools: [{ type: 'function', function: { name: 'f' } }] }, OpenAI.BadRequestError, 'tools'],
      [{ response_format: { type: 'json_object' } }, OpenAI.BadRequestError, 'response_format'],
      [{ messages: [] }, OpenAI.BadRequestError, 'messages'],
      [{ model: 'none' }, OpenAI.NotFoundError, 'model'],
    ];
    for (const [fields, type, param] of cases) {
      await assert.rejects(bad(fields), (error) => {
        assert.ok(error instanceof type, String(error));
        assert.equal(error.param, param);
        return true;
      });
    }
    await assert.rejects(bad({ messages: [{ role: 'user', content: 'story '.repeat(5000) }] }),
      (error) => error.code === 'context_length_exceeded');
  });

  it('is kept from pages of other origins', async () => {
    const ask = (origin) => fetch(`${service.http}/v1/models`, { headers: { origin } });
    assert.equal((await ask('https://x.test')).status, 403);
    const allowed = await ask('https://chat.example');
    assert.equal(allowed.headers.get('access-control-allow-origin'), 'https://chat.example');
  });
});
