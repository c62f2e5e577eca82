// KServe's and Triton's contract, by a client that is made of the published proto file.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import protobuf from 'protobufjs';
import { Client, listServices } from './client.mjs';
import { eventually, Service, sourceDir } from './daemons.mjs';

const prompt = 'Once upon a time';
const insecure = grpc.credentials.createInsecure();
const { inference } = grpc.loadPackageDefinition(protoLoader.loadSync(
  join(sourceDir, 'proto', 'inference', 'grpc_service.proto'),
  { keepCase: true, longs: Number, defaults: true, oneofs: true }));

// BYTES of one element, as Triton's clients send them.
function rawText(text) {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(Buffer.byteLength(text));
  return Buffer.concat([length, Buffer.from(text)]);
}

function inferRequest(parameters = {}, id = '') {
  return {
    id, parameters,
    inputs: [{ name: 'text_input', datatype: 'BYTES', shape: [1], contents: { bytes_contents: [Buffer.from(prompt)] } }],
  };
}

const greedy = { temperature: { double_param: 0 }, reproducible: { bool_param: true }, ignore_eos: { bool_param: true } };
const textOf = (answer) => answer.outputs[0].contents.bytes_contents[0].toString();

describe('the contract of KServe and Triton', () => {
  let service;
  let stub;
  let own;
  let expected;  // what the prompt becomes by tidegate.v1
  before(async () => {
    service = await Service.start({ engineArgs: ['--metrics-vllm-names'] });
    own = await Client.connect(service.address);
    stub = new inference.GRPCInferenceService(service.address, insecure);
    await eventually('readiness', async () => (await call('ServerReady')).ready);
    expected = (await own.generate({
      text: prompt, max_tokens: 12, sampling: { temperature: 0 }, stop: { ignore_eos: true },
      pruning: { reproducible: true },
    }).collect()).text;
  });
  after(async () => {
    own?.close();
    stub?.close();
    await service?.stop();
  });

  function call(method, request = {}) {
    return new Promise((resolve, reject) => {
      stub[method](request, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  }
  // All answers to the requests on one stream.
  function stream(requests, metadata = new grpc.Metadata()) {
    const bidi = stub.ModelStreamInfer(metadata);
    return new Promise((resolve, reject) => {
      const answers = [];
      bidi.on('data', (answer) => answers.push(answer));
      bidi.on('error', reject);
      bidi.on('end', () => resolve(answers));
      for (const request of requests) bidi.write(request);
      bidi.end();
    });
  }

  it('is listed, healthy and described', async () => {
    assert.ok((await listServices(service.address)).includes('inference.GRPCInferenceService'));
    assert.equal((await own.check('inference.GRPCInferenceService')).status, 'SERVING');
    assert.equal((await call('ServerLive')).live, true);
    assert.equal((await call('ServerMetadata')).name, 'tidegate');
    assert.equal((await call('ModelReady', { name: 'stories-7M', version: '1' })).ready, true);
    const metadata = await call('ModelMetadata', { name: 'stories-7M' });
    assert.equal(metadata.inputs[0].name, 'text_input');
    const { models } = await call('RepositoryIndex');
    assert.deepEqual(models.map(({ name, state }) => [name, state]), [['stories-7M', 'READY']]);
  });

  it('answers with the whole text', async () => {
    const answer = await call('ModelInfer', {
      ...inferRequest({ ...greedy, max_tokens: { int64_param: 12 } }, 'whole'),
      outputs: [{ name: 'text_output' }, { name: 'num_output_tokens' }],
    });
    assert.equal(answer.id, 'whole');
    assert.equal(answer.model_name, 'stories-7M');
    assert.equal(textOf(answer), expected);
    assert.deepEqual(answer.outputs[1].contents.uint_contents, [12]);
  });

  it('takes raw tensors and sampling_parameters, as Triton\'s clients send them', async () => {
    const sampling = JSON.stringify({ temperature: '0', max_tokens: 12, reproducible: true, ignore_eos: true });
    const answer = await call('ModelInfer', {
      model_name: 'stories-7M',
      inputs: [{ name: 'text_input', datatype: 'BYTES', shape: [1] }, { name: 'sampling_parameters', datatype: 'BYTES', shape: [1] }],
      raw_input_contents: [rawText(prompt), rawText(sampling)],
    });
    assert.deepEqual(answer.raw_output_contents, [rawText(expected)]);
  });

  it('streams pieces of several requests', async () => {
    const parameters = { ...greedy, max_tokens: { int64_param: 12 }, triton_enable_empty_final_response: { bool_param: true } };
    const answers = await stream([inferRequest(parameters, 'a'), inferRequest(parameters, 'b')]);
    for (const id of ['a', 'b']) {
      const mine = answers.map((answer) => answer.infer_response).filter((answer) => answer.id === id);
      const last = mine.pop();
      assert.ok(last.parameters.triton_final_response.bool_param);
      assert.equal(last.outputs.length, 0);
      assert.ok(mine.length > 1, `${mine.length} pieces`);
      assert.ok(mine.every((answer) => !answer.parameters.triton_final_response.bool_param));
      assert.equal(mine.map(textOf).join(''), expected);
    }
  });

  it('tells errors in the stream, or by its status', async () => {
    const wrong = inferRequest({ temperature: { double_param: 1000 } }, 'wrong');
    const [answer] = await stream([wrong]);
    assert.match(answer.error_message, /temperature/);
    assert.equal(answer.infer_response.id, 'wrong');
    const metadata = new grpc.Metadata();
    metadata.set('triton_grpc_error', 'true');
    await assert.rejects(stream([wrong], metadata), { code: grpc.status.INVALID_ARGUMENT });
    await assert.rejects(call('ModelInfer', { ...wrong, model_name: 'huge' }), { code: grpc.status.NOT_FOUND });
  });

  it('ends what a client has left', async () => {
    const bidi = stub.ModelStreamInfer();
    bidi.on('error', () => {});
    bidi.write(inferRequest({ max_tokens: { int64_param: 1000 }, ignore_eos: { bool_param: true } }));
    await new Promise((resolve) => { bidi.once('data', resolve); });
    bidi.cancel();
    await eventually('the request ends', async () => (await service.metric('tidegate_requests_running')) === 0);
  });

  it('counts', async () => {
    const [statistics] = (await call('ModelStatistics')).model_stats;
    assert.ok(statistics.inference_count >= 5);
    assert.ok(statistics.inference_stats.compute_infer.ns > 0);
    assert.equal(await service.metric('vllm:num_requests_running'), 0);
    assert.ok(await service.metric('vllm:generation_tokens_total') >= 60);
  });

  it('reports its load to calls that ask', async () => {
    const metadata = new grpc.Metadata();
    metadata.set('endpoint-load-metrics-format', 'bin');
    const trailer = await new Promise((resolve, reject) => {
      const unary = stub.ModelInfer(inferRequest({ max_tokens: { int64_param: 2 } }), metadata,
        (error) => { if (error) reject(error); });
      unary.on('status', (status) => resolve(status.metadata.get('endpoint-load-metrics-bin')[0]));
    });
    const root = new protobuf.Root();
    root.loadSync(join(sourceDir, 'proto', 'xds', 'data', 'orca', 'v3', 'orca_load_report.proto'), { keepCase: true });
    const report = root.lookupType('xds.data.orca.v3.OrcaLoadReport').decode(trailer);
    assert.ok(report.mem_utilization > 0 && report.mem_utilization <= 1);
    assert.ok(report.named_metrics.max_token_capacity > 0);
  });
});
