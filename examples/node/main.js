/**
 * Calls brain, shows what brain refuses, and ends with 0 only if all of it was as docs/wire.md says.
 */
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';

import { brainMethods, shieldMethods } from './contracts.js';
import { Refused, Service } from './service.js';
import { channelCredentials, encrypted, find, namespace, secret, shieldAddress } from './settings.js';
import { shieldTokens } from './shield.js';
import { ownTokens } from './signing.js';

const TENANT = 'acme';
const OTHER_TENANT = 'globex';
const SUBJECT = 'till';

const own = ownTokens(secret(), SUBJECT);
const mesh = { namespace, credentials: channelCredentials() };
const shield = shieldAddress
  ? new Service({ ...mesh, name: 'shield', methods: shieldMethods, address: shieldAddress, tokens: own })
  : undefined;
const { address, instance_id: instance } = find('brain');
const place = { ...mesh, name: 'brain', methods: brainMethods, address, instance };
const brain = new Service({ ...place, tokens: shield ? shieldTokens(shield) : own });
let wrong = 0;

console.log(`${shield ? 'tokens of Shield' : 'tokens of our own'}, over ${encrypted ? 'mTLS' : 'plain TCP'}`);
await calls();
await refusals();
if (shield) await forgers();
if (encrypted) await strangers();
brain.close();
shield?.close();
console.log(wrong ? `${wrong} not as they should be` : 'all as it should be');
process.exitCode = wrong ? 1 : 0;

/** What brain answers. */
async function calls() {
  const word = `leaf${randomBytes(6).toString('hex')}`;
  const ids = [`${word}-1`, `${word}-2`];
  const cells = ids.map((id, place) => ({ id, text: `Green tea, ${word}, infusion ${place + 1}` }));
  await check('Upsert stores two cells', 'STATUS_CREATED STATUS_CREATED', async () => {
    const [{ outcomes }] = await brain.call('Upsert', { cells }, { permission: 'brain:write', tenant: TENANT });
    return outcomes.map((/** @type {{status: string}} */ outcome) => outcome.status).join(' ');
  });
  await check('Get reads one', cells[0].text, async () => {
    const [reply] = await brain.call('Get', { ids: [ids[0]] }, { permission: 'brain:read', tenant: TENANT });
    return reply.cells[0].text;
  });
  await check('Search streams both', ids.join(' '), async () => {
    const request = { query: word, mode: 'SEARCH_MODE_LEXICAL' };
    const replies = await brain.call('Search', request, { permission: 'brain:read', tenant: TENANT });
    return replies.map(({ hit }) => hit.cell.id).sort().join(' ');
  });
}

/** What brain, or Shield, refuses. */
async function refusals() {
  const reading = { permission: 'brain:read', tenant: TENANT };
  await check('a proof, used twice', 'UNAUTHENTICATED PROOF_REPLAYED', async () => {
    const signed = await brain.sign('Get', { ids: ['tea'] }, reading);
    await brain.send(signed);
    return brain.send(signed);
  });
  await check('a message, altered after it was signed', 'UNAUTHENTICATED PROOF_MISMATCH', async () => {
    const signed = await brain.sign('Get', { ids: ['tea'] }, reading);
    return brain.send({ ...signed, message: signed.method.requestSerialize({ ids: ['ale'] }) });
  });
  await check('a permission that the token does not claim', 'PERMISSION_DENIED PERMISSION_MISSING', () =>
    brain.call('Upsert', { cells: [{ text: 'tea' }] }, reading),
  );
  await check('a permission that was never granted', 'PERMISSION_DENIED GRANT_EXCEEDED', () =>
    brain.call('Stats', {}, { permission: 'brain:stats', tenant: TENANT }),
  );
  await check('a tenant that was never granted', 'PERMISSION_DENIED GRANT_EXCEEDED', () =>
    brain.call('Get', { ids: ['tea'] }, { permission: 'brain:read', tenant: OTHER_TENANT }),
  );
}

/** Who has no token of Shield that is its own. */
async function forgers() {
  await checkAs('a token that Shield did not issue', 'UNAUTHENTICATED TOKEN_AUTHORITY', { tokens: own });
  const { privateKey } = generateKeyPairSync('ed25519');
  /** @type {import('./signing.js').TokenSource} */
  const stolen = async (scope) => ({
    ...(await brain.tokens(scope)),
    sign: (lines) => sign(null, Buffer.from(lines), privateKey),
  });
  await checkAs('a token that is bound to a key of others', 'UNAUTHENTICATED PROOF_MISMATCH', { tokens: stolen });
}

/** Who has no certificate. */
async function strangers() {
  await checkAs('a caller without a certificate', 'UNAVAILABLE', { credentials: channelCredentials(false) });
}

/**
 * Reads as somebody else.
 *
 * @param {string} who Who, for people.
 * @param {string} expected Status and reason of the refusal.
 * @param {Partial<ConstructorParameters<typeof Service>[0]>} other What is different about that one.
 */
async function checkAs(who, expected, other) {
  const service = new Service({ ...place, tokens: brain.tokens, ...other });
  await check(who, expected, () =>
    service.call('Get', { ids: ['tea'] }, { permission: 'brain:read', tenant: TENANT }),
  );
  service.close();
}

/**
 * Does something, and says whether it came out as it should.
 *
 * @param {string} what What is done, for people.
 * @param {string} expected What should come of it; of a refusal, its status and reason.
 * @param {() => Promise<unknown>} act Does it.
 */
async function check(what, expected, act) {
  let found;
  try {
    found = await act();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    found = [error.status, error.reason].filter(Boolean).join(' ');
  }
  const right = found === expected;
  if (!right) wrong += 1;
  console.log(`${right ? 'right' : 'WRONG'}  ${what}: ${right ? found : `${JSON.stringify(found)}, not ${expected}`}`);
}
