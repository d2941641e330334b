/**
 * Keys, tokens and proofs, as docs/wire.md describes them.
 */
import { createHash, createHmac, hkdfSync, randomBytes, randomUUID } from 'node:crypto';

/**
 * What a token is for.
 *
 * @typedef {object} Scope
 * @property {string} audience The service that is called.
 * @property {string[]} tenants Tenants that the token may name.
 * @property {string[]} permissions Permissions that it claims.
 */

/**
 * A token, and what signs the proofs of calls with it.
 *
 * @typedef {object} Token
 * @property {string} text Its compact form.
 * @property {string} alg Its algorithm, which is the proof's too.
 * @property {string} kid The key that signed it, with its project.
 * @property {number} renewAt When the next one should be made, in Unix milliseconds.
 * @property {(lines: string) => Buffer} sign Signs the lines of a proof.
 */

/**
 * Where tokens come from.
 *
 * @typedef {(scope: Scope) => Promise<Token>} TokenSource
 */

/**
 * A project's secret.
 *
 * @typedef {object} Secret
 * @property {string} namespace The mesh.
 * @property {string} project Whose it is.
 * @property {string} kid Its name.
 * @property {string} text The secret.
 */

/**
 * What a proof is made for, each as it is sent.
 *
 * @typedef {object} Signable
 * @property {string} path Of the method, `/package.Service/Method`.
 * @property {string} to Id of the instance, or `-`.
 * @property {string} [tenant] The call's tenant.
 * @property {string} [criticality] The call's criticality.
 * @property {string} [subject] The token of the caller on whose behalf the call is made.
 * @property {Uint8Array} [message] The serialized request; none where requests are a stream.
 */

const TOKEN_SECONDS = 300;
const RENEWED_AT = 0.8;

/**
 * Tokens that a project makes itself.
 *
 * @param {Secret} secret The project's.
 * @param {string} subject The name of the calling program.
 * @returns {TokenSource}
 */
export function ownTokens(secret, subject) {
  return kept(async (scope) => {
    const now = Math.floor(Date.now() / 1000);
    return signToken(secret, {
      iss: secret.project,
      project: secret.project,
      sub: subject,
      aud: scope.audience,
      iat: now,
      nbf: now,
      exp: now + TOKEN_SECONDS,
      jti: randomUUID(),
      tenants: scope.tenants,
      permissions: scope.permissions,
    });
  });
}

/**
 * Signs a token with the key that the secret gives for its audience.
 *
 * @param {Secret} secret The project's.
 * @param {{aud: string, iat: number, exp: number} & Record<string, unknown>} claims All of them.
 * @returns {Token}
 */
export function signToken(secret, claims) {
  const header = { alg: 'HS256', kid: `${secret.project}:${secret.kid}`, typ: 'at+jwt' };
  const signed = `${base64(JSON.stringify(header))}.${base64(JSON.stringify(claims))}`;
  const proofKey = deriveKey(secret, claims.aud, 'proof');
  return {
    text: `${signed}.${base64(hmac(deriveKey(secret, claims.aud, 'token'), signed))}`,
    alg: header.alg,
    kid: header.kid,
    renewAt: renewal(claims.iat, claims.exp),
    sign: (lines) => hmac(proofKey, lines),
  };
}

/**
 * Makes the value of `x-cu-proof`.
 *
 * @param {Token} token The call's.
 * @param {Signable} call What is to be sent.
 * @param {number} [ts] The time now, in Unix milliseconds.
 * @param {Uint8Array} [random] 16 bytes that were never used before.
 * @returns {string}
 */
export function makeProof(token, call, ts = Date.now(), random = randomBytes(16)) {
  const nonce = base64(random);
  const lines = [
    'meshkit-proof-v1',
    token.alg,
    token.kid,
    call.to,
    call.path,
    call.tenant ?? '-',
    call.criticality ?? '-',
    ts,
    nonce,
    sha256(token.text),
    call.subject === undefined ? '-' : sha256(call.subject),
    call.message === undefined ? '-' : sha256(call.message),
  ];
  return `ts=${ts};nonce=${nonce};sig=${base64(token.sign(lines.join('\n')))}`;
}

/**
 * Keeps each token for many calls, until the next one should be made.
 *
 * @param {TokenSource} make Makes one.
 * @returns {TokenSource}
 */
export function kept(make) {
  /** @type {Map<string, Token>} */
  const tokens = new Map();
  return async (scope) => {
    const name = JSON.stringify(scope);
    let token = tokens.get(name);
    if (token === undefined || token.renewAt <= Date.now()) {
      token = await make(scope);
      tokens.set(name, token);
    }
    return token;
  };
}

/**
 * When the next token should be made, in Unix milliseconds.
 *
 * @param {number} iat From when on the token is good, in seconds.
 * @param {number} exp When it ends.
 */
export function renewal(iat, exp) {
  return 1000 * (iat + RENEWED_AT * (exp - iat));
}

/**
 * The key for one service and purpose.
 *
 * @param {Secret} secret The project's.
 * @param {string} service The called service.
 * @param {'token' | 'proof'} purpose What it signs.
 */
export function deriveKey(secret, service, purpose) {
  const info = `meshkit/v1/${secret.namespace}/${secret.project}/${service}/${purpose}`;
  return Buffer.from(hkdfSync('sha256', secret.text, '', info, 32));
}

/** @param {string | Uint8Array} value */
export function sha256(value) {
  return createHash('sha256').update(value).digest('hex');
}

/** @param {string | Uint8Array} value */
export function base64(value) {
  return Buffer.from(value).toString('base64url');
}

/**
 * @param {Buffer} key
 * @param {string} text
 */
function hmac(key, text) {
  return createHmac('sha256', key).update(text).digest();
}
