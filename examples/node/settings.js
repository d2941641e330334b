/**
 * What the client is told: settings of docs/configuration.md that it knows, by the names that all programs of the mesh
 * read, and where instances are.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { credentials } from '@grpc/grpc-js';

import { sha256 } from './signing.js';

/**
 * @param {string} name A setting that must be there.
 * @returns {string}
 */
function needed(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: README.md says what to set`);
  return value;
}

/** The mesh that is called. */
export const namespace = process.env.CU_NAMESPACE || 'contextunity';

/** Where Shield is, `host:port`; undefined where projects make their own tokens. */
export const shieldAddress = process.env.CU_SHIELD_GRPC_URL || undefined;

/** Whether calls are encrypted. */
export const encrypted = process.env.GRPC_TLS_ENABLED === 'true';

/**
 * The newest secret of the calling project.
 *
 * @returns {import('./signing.js').Secret}
 */
export function secret() {
  const [newest] = needed('CU_PROJECT_SECRET').split(',');
  const [, kid, text] = /^([A-Za-z0-9_-]{1,32}):(.+)$/s.exec(newest) ?? [newest, sha256(newest).slice(0, 8), newest];
  return { namespace, project: needed('CU_PROJECT_ID'), kid, text };
}

/**
 * What the client shows to servers, and trusts of what they show.
 *
 * @param {boolean} certified Whether it shows a certificate of its own.
 */
export function channelCredentials(certified = true) {
  if (!encrypted) return credentials.createInsecure();
  const authority = readFileSync(needed('GRPC_TLS_CA_CERT'));
  if (!certified) return credentials.createSsl(authority);
  const [key, certificate] = ['GRPC_TLS_CLIENT_KEY', 'GRPC_TLS_CLIENT_CERT'].map((name) =>
    readFileSync(needed(name).replaceAll('{service}', 'client')),
  );
  return credentials.createSsl(authority, key, certificate);
}

/**
 * An instance of a service that takes calls, from the file registry in the state folder.
 *
 * @param {string} service
 * @returns {{address: string, instance_id: string}}
 */
export function find(service) {
  const folder = join(needed('CU_STATE_DIR'), 'registry', service);
  const files = readdirSync(folder).filter((name) => name.endsWith('.json'));
  const records = files.map((name) => JSON.parse(readFileSync(join(folder, name), 'utf8')));
  const found = records.find((record) => record.state === 'serving');
  if (found === undefined) throw new Error(`no instance of ${service} serves, says ${folder}`);
  return found;
}
