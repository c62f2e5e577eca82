// A client that knows nothing of Tidegate but an address: messages and services come from the server's
// reflection, the protocol files of health and reflection from the gRPC project's own npm packages.
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import grpc from '@grpc/grpc-js';
import protoLoader from '@grpc/proto-loader';
import protobuf from 'protobufjs';
import { sourceDir } from './daemons.mjs';

export const { status } = grpc;

const options = { keepCase: true, longs: String, enums: String, defaults: true, oneofs: true };
const require = createRequire(import.meta.url);
const insecure = grpc.credentials.createInsecure();

const reflectionProto = join(dirname(require.resolve('@grpc/reflection/package.json')),
  'build/proto/grpc/reflection/v1alpha/reflection.proto');
const healthProto = join(dirname(require.resolve('grpc-health-check/package.json')),
  'proto/health/v1/health.proto');
const errorProtos = new protobuf.Root();
errorProtos.resolvePath = (origin, target) =>
  (target.startsWith('/') ? target : join(sourceDir, 'proto', target));
errorProtos.loadSync(['google/rpc/status.proto', 'google/rpc/error_details.proto'], { keepCase: true });

function load(protoFile) {
  return grpc.loadPackageDefinition(protoLoader.loadSync(protoFile, options));
}

// Options of a stub whose calls show a key; none without one.
function showing(key) {
  const addKey = (callOptions, nextCall) => new grpc.InterceptingCall(nextCall(callOptions), {
    start(metadata, listener, next) {
      metadata.set('authorization', `Bearer ${key}`);
      next(metadata, listener);
    },
  });
  return key ? { interceptors: [addKey] } : {};
}

// Answers of the server's reflection to one request each.
async function reflect(address, request, credentials, key) {
  const { ServerReflection } = load(reflectionProto).grpc.reflection.v1alpha;
  const client = new ServerReflection(address, credentials, showing(key));
  const call = client.ServerReflectionInfo();
  try {
    return await new Promise((resolve, reject) => {
      call.on('data', resolve);
      call.on('error', reject);
      call.on('end', () => reject(new Error('reflection gave no answer')));
      call.write(request);
    });
  } finally {
    call.on('error', () => {});
    call.end();
    client.close();
  }
}

export async function listServices(address, key) {
  const answer = await reflect(address, { list_services: '' }, insecure, key);
  return answer.list_services_response.service.map((service) => service.name);
}

// Serialised google.protobuf.FileDescriptorSet of the files behind the symbols.
async function describe(address, symbols, credentials, key) {
  const files = new Map();
  for (const symbol of symbols) {
    const answer = await reflect(address, { file_containing_symbol: symbol }, credentials, key);
    if (answer.error_response) throw new Error(`${symbol}: ${answer.error_response.error_message}`);
    for (const file of answer.file_descriptor_response.file_descriptor_proto) {
      files.set(file.toString('base64'), file);
    }
  }
  const writer = protobuf.Writer.create();
  for (const file of files.values()) writer.uint32(0x0a).bytes(file);  // field 1, repeated message
  return Buffer.from(writer.finish());
}

// Calls of one server; unary ones answer promises.
export class Client {
  // `key`: of a server with keys; it has to have the scope admin.
  static async connect(address, credentials = insecure, key = undefined) {
    const set = await describe(address,
      ['tidegate.v1.GenerationService', 'tidegate.v1.ModelService'], credentials, key);
    const api = grpc.loadPackageDefinition(
      protoLoader.loadFileDescriptorSetFromBuffer(set, options)).tidegate.v1;
    return new Client(address, api, credentials, key);
  }

  constructor(address, api, credentials, key) {
    this.target = [address, api, credentials];
    this.generation = new api.GenerationService(address, credentials, showing(key));
    this.model = new api.ModelService(address, credentials, showing(key));
    this.health = new (load(healthProto).grpc.health.v1.Health)(address, credentials);
  }

  // The same server with another key, or with none.
  as(key) { return new Client(...this.target, key); }

  close() {
    for (const stub of [this.generation, this.model, this.health]) stub.close();
  }

  #unary(stub, method, request) {
    return new Promise((resolve, reject) => {
      stub[method](request, (error, answer) => (error ? reject(error) : resolve(answer)));
    });
  }

  tokenize(request) { return this.#unary(this.generation, 'Tokenize', request); }
  cancel(request) { return this.#unary(this.generation, 'Cancel', request); }
  detokenize(request) { return this.#unary(this.generation, 'Detokenize', request); }
  getModel(request = {}) { return this.#unary(this.model, 'GetModel', request); }
  listModels() { return this.#unary(this.model, 'ListModels', {}); }
  check(service) { return this.#unary(this.health, 'Check', { service }); }

  // Starts a stream; see Stream.
  generate(request, callOptions = {}) {
    return new Stream(this.generation.Generate(request, callOptions));
  }
  chat(request, callOptions = {}) {
    return new Stream(this.generation.Chat(request, callOptions));
  }
}

// One Generate or Chat call. `done` answers {events, error}; `until(kind)` waits for the first event of a kind.
class Stream {
  constructor(call) {
    this.call = call;
    this.events = [];
    this.waiting = [];
    this.done = new Promise((resolve) => {
      call.on('data', (event) => {
        this.events.push(event);
        this.#wake();
      });
      call.on('error', (error) => this.#finish(resolve, error));
      call.on('end', () => this.#finish(resolve, null));
    });
  }

  #finish(resolve, error) {
    this.finished = true;
    resolve({ events: this.events, error });
    this.#wake();
  }

  #wake() { for (const wake of this.waiting.splice(0)) wake(); }

  cancel() { this.call.cancel(); }

  async until(kind) {
    for (;;) {
      const event = this.events.find((candidate) => candidate.event === kind);
      if (event) return event[kind];
      if (this.finished) throw new Error(`the stream ended without ${kind}`);
      await new Promise((resolve) => { this.waiting.push(resolve); });
    }
  }

  // The whole stream, put together; throws its error if it had one.
  async collect() {
    const { events, error } = await this.done;
    if (error) throw error;
    const deltas = events.filter((event) => event.event === 'delta').map((event) => event.delta);
    return {
      events,
      started: events[0].started,
      text: deltas.map((delta) => delta.text).join(''),
      ids: deltas.flatMap((delta) => delta.token_ids),
      finished: events.at(-1).finished,
    };
  }
}

// The google.rpc details of an error as plain objects, keyed by message name ("BadRequest").
export function errorDetails(error) {
  const [packed] = error.metadata.get('grpc-status-details-bin');
  if (!packed) return {};
  const rpcStatus = errorProtos.lookupType('google.rpc.Status').decode(packed);
  const details = {};
  for (const any of rpcStatus.details) {
    const name = any.type_url.slice(any.type_url.lastIndexOf('/') + 1);
    const type = errorProtos.lookupType(name);
    details[type.name] = type.toObject(type.decode(any.value), { defaults: true, longs: Number });
  }
  return { code: rpcStatus.code, ...details };
}
