/**
 * What is signed here is what docs/wire.md says, byte by byte: `node --test`.
 */
import assert from 'node:assert/strict';
import { createPrivateKey, sign } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { deriveKey, makeProof, sha256, signToken } from './signing.js';

const page = readFileSync(new URL('../../docs/wire.md', import.meta.url), 'utf8').split('## Test vectors')[1];
const vectors = Object.fromEntries([...page.matchAll(/^([\w ,-]+) = (.+)$/gm)].map(([, name, value]) => [name, value]));
const proofs = [...page.matchAll(/^ {4}x-cu-proof: (\S+)$/gm)].map(([, proof]) => proof);
const { namespace, project, kid } = vectors;
const secret = { namespace, project, kid, text: vectors.secret };
const message = Buffer.from(vectors['message, hex'], 'hex');
const greet = {
  path: '/greeter.v1.GreeterService/Greet',
  to: 'greeter-01KF3Q1N8Z5V6W7X8Y9ZABCDEF',
  tenant: 'acme',
  message,
};

/**
 * @param {import('./signing.js').Token} token
 * @param {import('./signing.js').Signable} call
 */
function proof(token, call) {
  return makeProof(token, call, Number(vectors.ts), Buffer.from(vectors['nonce, hex'], 'hex'));
}

test('keys', () => {
  assert.equal(deriveKey(secret, vectors.service, 'token').toString('hex'), vectors['token key, hex']);
  assert.equal(deriveKey(secret, vectors.service, 'proof').toString('hex'), vectors['proof key, hex']);
  assert.equal(sha256(vectors.secret).slice(0, 8), vectors['kid of a bare secret']);
});

test('a token', () => {
  assert.equal(signToken(secret, JSON.parse(vectors['token claims'])).text, vectors.token);
});

test('proofs with a token of our own', () => {
  const token = signToken(secret, JSON.parse(vectors['token claims']));
  assert.equal(proof(token, greet), proofs[0]);
  const stream = { path: `${greet.path}All`, to: '-', tenant: 'acme', criticality: 'critical', subject: 'a.b.c' };
  assert.equal(proof(token, stream), proofs[1]);
});

test('a proof with a token of Shield', () => {
  const x = vectors['holder public key, base64'];
  const d = Buffer.from(vectors['holder private key, hex'], 'hex').toString('base64url');
  const key = createPrivateKey({ key: { kty: 'OKP', crv: 'Ed25519', x, d }, format: 'jwk' });
  const token = {
    text: vectors['shield token'],
    alg: 'EdDSA',
    kid: `shield:${vectors['shield kid']}`,
    renewAt: 0,
    sign: (/** @type {string} */ lines) => sign(null, Buffer.from(lines), key),
  };
  assert.equal(proof(token, greet), proofs[2]);
});
