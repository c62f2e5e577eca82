// Certificates for tests, made with the openssl program in a folder.
import { spawnSync } from 'node:child_process';
import { readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';

export const hasOpenssl = spawnSync('openssl', ['version']).status === 0;

// Writes NAME.pem and NAME.key, in place of those that were there; answers their paths and contents. `issuer`
// signs; without one it is an authority.
export function makeCertificate(folder, name, { issuer, commonName = name } = {}) {
  const file = (suffix) => join(folder, `${name}${suffix}`);
  const signed = issuer === undefined ? [] : [
    '-CA', issuer.certFile, '-CAkey', issuer.keyFile,
    '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
  const run = spawnSync('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-noenc', '-days', '2',
    '-subj', `/CN=${commonName}`, '-keyout', file('.new-key'), '-out', file('.new-pem'), ...signed], { encoding: 'utf8' });
  if (run.status !== 0) throw new Error(`openssl req failed:\n${run.stderr}`);
  renameSync(file('.new-pem'), file('.pem'));
  renameSync(file('.new-key'), file('.key'));
  return {
    certFile: file('.pem'), keyFile: file('.key'),
    cert: readFileSync(file('.pem')), key: readFileSync(file('.key')),
  };
}
