/**
 * Calls to one instance of a service, signed.
 */
import { setTimeout } from 'node:timers/promises';

import { Client, Metadata, status } from '@grpc/grpc-js';

import { reasonOf } from './contracts.js';
import { makeProof } from './signing.js';

const DEADLINE_MS = 5000;
const ATTEMPTS = 3;
const PAUSE_MS = 20;

/**
 * A decoded message.
 *
 * @typedef {Record<string, any>} Message
 */

/**
 * Whom a call is for, and what it needs.
 *
 * @typedef {object} Right
 * @property {string} permission What the method needs, and the token claims.
 * @property {string} [tenant] The tenant; none for methods that have none.
 */

/**
 * A call that can be sent.
 *
 * @typedef {object} Signed
 * @property {import('@grpc/proto-loader').MethodDefinition<object, object>} method What is called.
 * @property {Buffer} message The serialized request.
 * @property {Metadata} metadata Token and proof.
 */

/** A call that did not succeed. */
export class Refused extends Error {
  /** @param {import('@grpc/grpc-js').ServiceError} error What gRPC said. */
  constructor(error) {
    super(error.details);
    /** The name of the status. */
    this.status = status[error.code];
    const [details] = error.metadata.get('grpc-status-details-bin');
    /** The reason that `google.rpc.ErrorInfo` names; undefined where gRPC itself failed. */
    this.reason = details === undefined ? undefined : reasonOf(Buffer.from(details));
    const [pushback = undefined] = error.metadata.get('grpc-retry-pushback-ms').map(Number);
    /** How long to wait before another attempt, in milliseconds; undefined where the server does not say. */
    this.pushback = pushback;
    /** Whether any method may be tried again: no handler saw the call. */
    this.repeatable = error.metadata.get('x-cu-unprocessed')[0] === '1' && !(pushback !== undefined && pushback < 0);
  }
}

/** An instance of a service. */
export class Service {
  /**
   * @param {object} place
   * @param {string} place.name The service.
   * @param {import('@grpc/proto-loader').ServiceDefinition} place.methods Its contract.
   * @param {string} place.address `host:port`.
   * @param {string} [place.instance] Id of the instance there, where it is known.
   * @param {string} place.namespace The mesh.
   * @param {import('@grpc/grpc-js').ChannelCredentials} place.credentials What encrypts calls.
   * @param {import('./signing.js').TokenSource} place.tokens Where tokens come from.
   */
  constructor({ name, methods, address, instance = '-', namespace, credentials, tokens }) {
    this.name = name;
    this.methods = methods;
    this.instance = instance;
    this.tokens = tokens;
    this.client = new Client(address, credentials, { 'grpc.ssl_target_name_override': `${name}.${namespace}` });
  }

  /**
   * Signs a call and sends it; again, signed anew, where it certainly was not processed.
   *
   * @param {string} name The method.
   * @param {Message} request
   * @param {Right} right
   * @returns {Promise<Message[]>} The reply; of a stream, all replies.
   */
  async call(name, request, right) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await this.send(await this.sign(name, request, right));
      } catch (error) {
        if (!(error instanceof Refused && error.repeatable) || attempt === ATTEMPTS) throw error;
        await setTimeout(error.pushback ?? Math.random() * PAUSE_MS * 2 ** (attempt - 1));
      }
    }
  }

  /**
   * Signs a call, which is to be sent once and soon.
   *
   * @param {string} name The method.
   * @param {Message} request
   * @param {Right} right
   * @returns {Promise<Signed>}
   */
  async sign(name, request, { permission, tenant }) {
    const method = this.methods[name];
    const message = method.requestSerialize(request);
    const tenants = tenant === undefined ? [] : [tenant];
    const token = await this.tokens({ audience: this.name, tenants, permissions: [permission] });
    const to = this.instance;
    const metadata = new Metadata();
    metadata.set('authorization', `Bearer ${token.text}`);
    metadata.set('x-cu-to', to);
    metadata.set('x-cu-proof', makeProof(token, { path: method.path, to, tenant, message }));
    if (tenant !== undefined) metadata.set('x-cu-tenant', tenant);
    return { method, message, metadata };
  }

  /**
   * Sends a signed call.
   *
   * @param {Signed} signed
   * @returns {Promise<Message[]>} The reply; of a stream, all replies.
   * @throws {Refused} It was refused, or failed.
   */
  async send({ method, message, metadata }) {
    /** @type {[string, (bytes: Buffer) => Buffer, (bytes: Buffer) => Message, Buffer, Metadata, object]} */
    const sent = [
      method.path,
      (bytes) => bytes,
      method.responseDeserialize,
      message,
      metadata,
      { deadline: Date.now() + DEADLINE_MS },
    ];
    try {
      if (method.responseStream) return await Array.fromAsync(this.client.makeServerStreamRequest(...sent));
      return await new Promise((resolve, reject) => {
        this.client.makeUnaryRequest(...sent, (error, reply) => (error ? reject(error) : resolve([reply ?? {}])));
      });
    } catch (error) {
      throw new Refused(/** @type {import('@grpc/grpc-js').ServiceError} */ (error));
    }
  }

  /** Closes the connection. */
  close() {
    this.client.close();
  }
}
