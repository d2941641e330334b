/**
 * Tokens of Shield: bound to a key pair that this process makes for itself, so that nobody else can use them.
 */
import { generateKeyPairSync, sign } from 'node:crypto';

import { kept, renewal } from './signing.js';

/**
 * Tokens that Shield issues.
 *
 * @param {import('./service.js').Service} shield Shield, called with tokens that the project makes.
 * @returns {import('./signing.js').TokenSource}
 */
export function shieldTokens(shield) {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519');
  const bytes = Buffer.from(publicKey.export({ format: 'jwk' }).x ?? '', 'base64url');
  return kept(async (scope) => {
    const request = { scope, public_key: bytes };
    const [{ issued }] = await shield.call('IssueToken', request, { permission: 'shield:issue' });
    const [header, claims] = issued.token.split('.', 2).map(parse);
    return {
      text: issued.token,
      alg: header.alg,
      kid: header.kid,
      renewAt: renewal(claims.iat, claims.exp),
      sign: (lines) => sign(null, Buffer.from(lines), privateKey),
    };
  });
}

/** @param {string} part Of a token. */
function parse(part) {
  return JSON.parse(Buffer.from(part, 'base64url').toString());
}
