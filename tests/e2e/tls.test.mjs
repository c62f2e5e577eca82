// TLS and client certificates, with a client of gRPC and one of HTTPS that nobody here wrote. The store's flash is
// modelled as slow, so that a stream is certain to run while the server's certificate changes.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { get } from 'node:https';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { connect } from 'node:tls';
import { after, before, describe, it } from 'node:test';
import grpc from '@grpc/grpc-js';
import { hasOpenssl, makeCertificate } from './certificates.mjs';
import { Client, status } from './client.mjs';
import { eventually, Service } from './daemons.mjs';

const slowFlash = ['--flash-model', 'bandwidth=40MB/s,latency=100us,iops=100k'];

describe('TLS', { skip: !hasOpenssl && 'there is no openssl' }, () => {
  let folder, authority, mine, service, client;
  const port = () => Number(service.address.split(':')[1]);

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'tidegate-e2e-'));
    authority = makeCertificate(folder, 'authority');
    mine = makeCertificate(folder, 'client', { issuer: authority });
    const server = makeCertificate(folder, 'server', { issuer: authority, commonName: 'first' });
    service = await Service.start({
      storeArgs: slowFlash,
      engineArgs: ['--tls-cert', server.certFile, '--tls-key', server.keyFile,
        '--tls-client-ca', authority.certFile, '--metrics-tls'],
    });
    client = await Client.connect(service.address,
      grpc.credentials.createSsl(authority.cert, mine.key, mine.cert));
    await eventually('readiness', async () => (await client.check('readiness')).status === 'SERVING');
  });
  after(async () => {
    client?.close();
    await service?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  // The common name in the certificate that a new connection is shown.
  async function shownName() {
    const socket = connect({
      port: port(), host: '127.0.0.1', ALPNProtocols: ['h2'], ca: authority.cert, cert: mine.cert, key: mine.key });
    await once(socket, 'secureConnect');
    const name = socket.getPeerCertificate().subject.CN;
    socket.destroy();
    return name;
  }

  it('refuses clients in clear text, strangers, and those without a certificate', async () => {
    const other = makeCertificate(folder, 'other');
    const stranger = makeCertificate(folder, 'stranger', { issuer: other });
    await assert.rejects(Client.connect(service.address));
    for (const credentials of [
      grpc.credentials.createSsl(authority.cert),
      grpc.credentials.createSsl(authority.cert, stranger.key, stranger.cert),
      grpc.credentials.createSsl(other.cert, mine.key, mine.cert),
    ]) {
      await assert.rejects(Client.connect(service.address, credentials), { code: status.UNAVAILABLE });
    }
  });

  it('goes on with a stream while the certificate changes', async () => {
    const stream = client.generate({
      text: 'Once upon a time', max_tokens: 40, stop: { ignore_eos: true }, pruning: { mode: 'DECODE_MODE_DENSE' } });
    await stream.until('delta');
    assert.equal(await shownName(), 'first');
    makeCertificate(folder, 'server', { issuer: authority, commonName: 'second' });
    service.engine.child.kill('SIGHUP');
    await eventually('the new certificate', async () => (await shownName()) === 'second');
    const { ids } = await stream.collect();
    assert.equal(ids.length, 40);
  });

  it('serves metrics over HTTPS to those with a certificate', async () => {
    const options = { host: '127.0.0.1', port: service.metricsPort, path: '/metrics', ca: authority.cert, agent: false };
    const [answer] = await once(get({ ...options, cert: mine.cert, key: mine.key }), 'response');
    assert.match(await text(answer), /^tidegate_tls_certificate_expiry_timestamp_seconds 1\.?\d+/m);
    await assert.rejects(once(get(options), 'response'));
  });

  it('is spoken by the command line', () => {
    const run = (...flags) => spawnSync(join(process.env.TIDEGATE_BUILD_DIR, 'tidegate'),
      ['health', '--server', service.address, ...flags], { encoding: 'utf8' });
    const healthy = run('--tls-ca', authority.certFile, '--tls-cert', mine.certFile, '--tls-key', mine.keyFile);
    assert.equal(healthy.status, 0, healthy.stderr);
    assert.equal(run('--tls-ca', authority.certFile).status, 1);
  });
});
