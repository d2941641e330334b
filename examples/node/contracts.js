/**
 * The contracts of the services that are called, and of errors.
 */
import { fileURLToPath } from 'node:url';

import { loadSync } from '@grpc/proto-loader';

const here = fileURLToPath(new URL('.', import.meta.url));
const protos = fileURLToPath(new URL('../../protos', import.meta.url));
const files = ['contextunity/brain/v1/brain.proto', 'meshkit/shield/v1/shield.proto', 'errors.proto'];
const definitions = loadSync(files, {
  includeDirs: [protos, here],
  keepCase: true,
  longs: String,
  enums: String,
  defaults: true,
});

/** Methods of brain by name. */
export const brainMethods = methods('contextunity.brain.v1.BrainService');

/** Methods of Shield by name. */
export const shieldMethods = methods('meshkit.shield.v1.ShieldService');

/**
 * The reason of a refusal; undefined where the mesh gave none.
 *
 * @param {Uint8Array} details What `grpc-status-details-bin` holds.
 * @returns {string | undefined}
 */
export function reasonOf(details) {
  const status = decode('google.rpc.Status', details);
  for (const { type_url: type, value } of status.details) {
    if (type.endsWith('/google.rpc.ErrorInfo')) {
      const info = decode('google.rpc.ErrorInfo', value);
      if (info.domain === 'meshkit') return info.reason;
    }
  }
  return undefined;
}

/**
 * @param {string} name Of a service.
 * @returns {import('@grpc/proto-loader').ServiceDefinition}
 */
function methods(name) {
  return /** @type {import('@grpc/proto-loader').ServiceDefinition} */ (definitions[name]);
}

/**
 * @param {string} name Of a message.
 * @param {Uint8Array} bytes
 * @returns {Record<string, any>}
 */
function decode(name, bytes) {
  const type = /** @type {import('@grpc/proto-loader').MessageTypeDefinition<object, object>} */ (definitions[name]);
  return type.deserialize(Buffer.from(bytes));
}
