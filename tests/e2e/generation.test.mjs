// What a client sees of a healthy service: reflection, health, models, tokens, streams, bad requests.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { Client, errorDetails, listServices, status } from './client.mjs';
import { eventually, Service, sourceDir } from './daemons.mjs';

const prompt = 'Once upon a time';

describe('a running service', () => {
  let service;
  let client;
  before(async () => {
    service = await Service.start({
      engineArgs: ['--chat-template', join(sourceDir, 'tests', 'e2e', 'chat.jinja')],
    });
    client = await Client.connect(service.address);
    await eventually('readiness', async () => (await client.check('readiness')).status === 'SERVING');
  });
  after(async () => {
    client?.close();
    await service?.stop();
  });

  it('lists its services through reflection', async () => {
    const names = await listServices(service.address);
    for (const name of ['tidegate.v1.GenerationService', 'tidegate.v1.ModelService',
      'grpc.reflection.v1alpha.ServerReflection']) {
      assert.ok(names.includes(name), `${name} is missing in ${names}`);
    }
  });

  it('is healthy by every name', async () => {
    for (const name of ['', 'liveness', 'readiness', 'tidegate.v1.GenerationService',
      'tidegate.v1.ModelService']) {
      assert.equal((await client.check(name)).status, 'SERVING', `name '${name}'`);
    }
    await assert.rejects(client.check('no.such.Service'), { code: status.NOT_FOUND });
  });

  it('describes the one model it serves', async () => {
    const { model } = await client.getModel();
    assert.equal(model.name, 'stories-7M');
    assert.equal(model.architecture, 'llama');
    assert.equal(model.unit_encoding, 'q8');
    assert.deepEqual(
      [model.layer_count, model.hidden_size, model.intermediate_size, model.vocab_size],
      [6, 256, 1024, 4096]);
    assert.ok(model.pruning.density_min > 0 && model.pruning.density_max <= 1);
    const { models } = await client.listModels();
    assert.deepEqual(models, [model]);
    assert.deepEqual((await client.getModel({ model: model.name })).model, model);
    await assert.rejects(client.getModel({ model: 'no-such-model' }), (error) => {
      assert.equal(error.code, status.NOT_FOUND);
      assert.equal(errorDetails(error).ResourceInfo.resource_name, 'no-such-model');
      return true;
    });
  });

  it('converts between text and tokens', async () => {
    for (const text of [prompt, 'One day, a fast driver named Tim.', 'ümläut 😀 日本', 'two  spaces']) {
      const plain = await client.tokenize({ text, add_special: false, with_pieces: true });
      assert.equal(plain.pieces.length, plain.token_ids.length);
      assert.equal((await client.detokenize({ token_ids: plain.token_ids })).text, text);
      const special = await client.tokenize({ text });
      assert.deepEqual(special.token_ids, [1, ...plain.token_ids], 'a start token is added');
    }
  });

  it('streams Started, Deltas and Finished that agree with each other', async () => {
    const { events, started, text, ids, finished } = await client.generate({
      text: prompt, max_tokens: 40, request_id: 'e2e-1', sampling: { temperature: 0 },
      stop: { ignore_eos: true }, pruning: { mode: 'DECODE_MODE_DIP_CA', density: 0.5, gamma: 0.5 },
    }).collect();

    const kinds = events.map((event) => event.event);
    assert.deepEqual([kinds[0], kinds.at(-1)], ['started', 'finished']);
    assert.ok(kinds.slice(1, -1).every((kind) => kind === 'delta'), `${kinds}`);

    const promptIds = (await client.tokenize({ text: prompt })).token_ids;
    assert.equal(started.request_id, 'e2e-1');
    assert.equal(started.model, 'stories-7M');
    assert.equal(started.prompt_tokens, promptIds.length);
    assert.deepEqual([started.mode, started.density, started.gamma], ['DECODE_MODE_DIP_CA', 0.5, 0.5]);

    assert.equal(finished.finish_reason, 'FINISH_REASON_MAX_TOKENS');
    assert.equal(ids.length, 40);
    assert.deepEqual(finished.usage, {
      prompt_tokens: promptIds.length, generated_tokens: 40, total_tokens: promptIds.length + 40,
      cached_prompt_tokens: 0 });
    const whole = await client.detokenize({ token_ids: [...promptIds, ...ids] });
    assert.equal(prompt + text, whole.text);

    const { flash, timings } = finished;
    assert.ok(Number(flash.hit_units) + Number(flash.miss_units) > 0);
    assert.ok(flash.hit_rate >= 0 && flash.hit_rate <= 1);
    assert.ok(Math.abs(flash.density - 0.5) < 0.02, `density ${flash.density}`);
    assert.ok(timings.first_token_seconds > 0 && timings.tokens_per_second > 0);
  });

  it('reads from flash because the weights exceed the budget', async () => {
    const before = await service.metric('tidegate_flash_read_bytes_total', service.storeMetricsPort);
    const { finished } = await client.generate({
      text: prompt, max_tokens: 8, stop: { ignore_eos: true }, pruning: { mode: 'DECODE_MODE_DENSE' },
    }).collect();
    const after = await service.metric('tidegate_flash_read_bytes_total', service.storeMetricsPort);
    assert.ok(Number(finished.flash.prefill_bytes) + Number(finished.flash.decode_bytes) > 0);
    assert.ok(after > before);
  });

  it('repeats a reproducible request token by token', async () => {
    const request = {
      text: prompt, max_tokens: 60, sampling: { temperature: 0.9, seed: 7 },
      stop: { ignore_eos: true }, pruning: { density: 0.5, reproducible: true },
    };
    const first = await client.generate(request).collect();
    await client.generate({ text: 'The old king looked at the sea', max_tokens: 30 }).collect();
    const second = await client.generate(request).collect();
    assert.equal(first.ids.length, 60);
    assert.deepEqual(second.ids, first.ids);
    assert.equal(second.text, first.text);
    assert.equal(second.finished.seed, '7');
    const other = await client.generate({ ...request, sampling: { temperature: 0.9, seed: 8 } }).collect();
    assert.notDeepEqual(other.ids, first.ids);
  });

  it('continues one prompt several times, each as a request with its seed does', async () => {
    const request = {
      text: prompt, max_tokens: 20, sampling: { temperature: 0.9, seed: 7 },
      stop: { ignore_eos: true }, pruning: { reproducible: true },
    };
    const { events } = await client.generate({ ...request, choices: 3, prompt_logprobs: 1 }).collect();
    const ids = [[], [], []];
    for (const { delta } of events) if (delta) ids[delta.choice].push(...delta.token_ids);
    for (const choice of [0, 1, 2]) {
      const alone = await client.generate({ ...request, sampling: { temperature: 0.9, seed: 7 + choice } }).collect();
      assert.deepEqual(ids[choice], alone.ids, `choice ${choice}`);
    }
    const ends = events.flatMap(({ finished }) => finished ?? []);
    assert.deepEqual(ends.map(({ choice, seed }) => `${choice} ${seed}`).sort(), ['0 7', '1 8', '2 9']);
    const promptIds = (await client.tokenize({ text: prompt })).token_ids;
    assert.equal(ends.reduce((sum, { usage }) => sum + usage.prompt_tokens, 0), promptIds.length);
    const scored = events.flatMap(({ prompt_logprobs: part }) => part ?? []);
    assert.deepEqual(scored.flatMap((part) => part.token_ids), promptIds.slice(1));
    assert.ok(scored.every((part) => part.logprobs.every(({ logprob, top }) => logprob <= 0 && top.length === 1)));
  });

  it('answers a conversation as it continues the text that the template makes of it', async () => {
    const rest = { max_tokens: 8, sampling: { temperature: 0 }, pruning: { reproducible: true } };
    const messages = [{ role: 'user', content: ' Once upon a time </s> ' }];
    const chat = await client.chat({ messages, ...rest }).collect();
    const plain = await client.generate({ text: 'user: Once upon a time </s>\nassistant:', ...rest }).collect();
    assert.deepEqual(chat.ids, plain.ids);
    const { error } = await client.chat({ messages: [{ role: 'robot', content: 'x' }] }).done;
    assert.equal(error.code, status.INVALID_ARGUMENT);
    assert.equal(errorDetails(error).BadRequest.field_violations[0].field, 'messages[0].role');
  });

  it('continues token ids as it continues their text', async () => {
    const { token_ids } = await client.tokenize({ text: prompt });
    const rest = {
      max_tokens: 20, sampling: { temperature: 0 }, pruning: { reproducible: true } };
    const byText = await client.generate({ text: prompt, ...rest }).collect();
    const byIds = await client.generate({ token_ids: { ids: token_ids }, ...rest }).collect();
    assert.deepEqual(byIds.ids, byText.ids);
  });

  it('stops at a string and says which', async () => {
    const greedy = { sampling: { temperature: 0 }, pruning: { reproducible: true }, max_tokens: 60 };
    const free = await client.generate({ text: prompt, ...greedy }).collect();
    const stop = free.text.slice(12, 17);
    const cut = await client.generate({ text: prompt, ...greedy, stop: { strings: [stop] } }).collect();
    assert.equal(cut.finished.finish_reason, 'FINISH_REASON_STOP_STRING');
    assert.equal(cut.finished.stop_string, stop);
    assert.equal(cut.text, free.text.slice(0, free.text.indexOf(stop)));
  });

  it('names every wrong field', async () => {
    const wrong = [
      [{}, 'prompt'],
      [{ text: prompt, max_tokens: 0 }, 'max_tokens'],
      [{ text: prompt, sampling: { temperature: -1 } }, 'sampling.temperature'],
      [{ text: prompt, sampling: { top_p: 2 } }, 'sampling.top_p'],
      [{ text: prompt, pruning: { density: 1.5 } }, 'pruning.density'],
      [{ text: prompt, stop: { token_ids: [1_000_000] } }, 'stop.token_ids'],
    ];
    for (const [request, field] of wrong) {
      const { error } = await client.generate(request).done;
      assert.equal(error?.code, status.INVALID_ARGUMENT, field);
      const { code, BadRequest } = errorDetails(error);
      assert.equal(code, status.INVALID_ARGUMENT);
      const fields = BadRequest.field_violations.map((violation) => violation.field);
      assert.ok(fields.some((name) => name.startsWith(field)), `${field} is not in ${fields}`);
    }
  });

  it('names the field of a text that was cut inside a character', async () => {
    const cut = 'a\ud83d';  // half of an emoji, as slice() leaves it
    const blamed = (error) => {
      assert.equal(error?.code, status.INVALID_ARGUMENT);
      return errorDetails(error).BadRequest.field_violations.map((violation) => violation.field);
    };
    const rejected = await service.metric('tidegate_requests_rejected_total');
    assert.deepEqual(blamed((await client.generate({ text: cut }).done).error), ['text']);
    assert.deepEqual(
      blamed((await client.generate({ text: prompt, stop: { strings: ['ok', cut] } }).done).error),
      ['stop.strings[1]']);
    const messages = ['Hi', 'Ho', cut].map((content) => ({ role: 'user', content }));
    assert.deepEqual(blamed((await client.chat({ messages }).done).error), ['messages[2].content']);
    assert.equal(await service.metric('tidegate_requests_rejected_total'), rejected + 3);
    // Each is begun when it is awaited: a rejection that nobody waits for yet fails the test.
    const unary = [[() => client.tokenize({ text: cut }), 'text'],
      [() => client.detokenize({ token_ids: [1], model: cut }), 'model'],
      [() => client.getModel({ model: cut }), 'model']];
    for (const [call, field] of unary) {
      assert.deepEqual(blamed(await call().then(() => null, (error) => error)), [field]);
    }
  });

  it('answers OUT_OF_RANGE to a prompt over the context', async () => {
    const { model } = await client.getModel();
    const ids = new Array(model.context_tokens + 1).fill(5);
    const { error } = await client.generate({ token_ids: { ids } }).done;
    assert.equal(error?.code, status.OUT_OF_RANGE);
    assert.equal(errorDetails(error).ErrorInfo.reason, 'CONTEXT_LENGTH_EXCEEDED');
  });

  it('answers NOT_FOUND to another model', async () => {
    const { error } = await client.generate({ text: prompt, model: 'no-such-model' }).done;
    assert.equal(error?.code, status.NOT_FOUND);
    assert.equal(errorDetails(error).ResourceInfo.resource_name, 'no-such-model');
  });
});

