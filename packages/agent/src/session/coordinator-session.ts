import { randomUUID } from 'node:crypto';
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { CapabilitiesSchema, SiteSummarySchema } from '@octomil/proto';
import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { AuditLog } from '../audit/audit-log.js';
import type { AgentConfig } from '../config/agent-config.js';
import { openCoordinatorClient } from '../connection/coordinator-client.js';
import { type DeviceCredential, readCredential, tokenDigest } from '../state/credential.js';
import { ATTEMPT_AFTER_WELCOME, reconnectDelayMs, slowRetryDelayMs } from './backoff.js';
import { enroll, isEnrollmentRefusal } from './enrollment.js';
import { runSession } from './session.js';
import type { SessionDelegate } from './session-link.js';

/** What Hello says about this machine and this site. */
export interface HelloFacts {
  readonly agentVersion: string;
  readonly hostName: string;
  readonly capabilities: MessageInitShape<typeof CapabilitiesSchema>;
  readonly site: MessageInitShape<typeof SiteSummarySchema>;
}

export interface CoordinatorSessionOptions {
  readonly config: AgentConfig;
  readonly credentialPath: string;
  readonly audit: Pick<AuditLog, 'record'>;
  readonly hello: () => Promise<HelloFacts>;
  readonly delegate: SessionDelegate;
  readonly clock: Clock;
  /** 0 to 1. */
  readonly random: () => number;
  readonly logger: Logger;
}

/** A session that lasted this long was a good one: the next reconnect is quick again. */
const SETTLED_MS = 5_000;

/**
 * A killed agent finds its own earlier process in possession until that one's lease runs out: for this many attempts the
 * next comes soon. Then somebody else uses the credential.
 */
const IN_USE_ATTEMPTS = 20;
const IN_USE_DELAY_MS = 1_500;

/** What only a person can mend; asked again seldom, in case somebody does. */
const SLOW_CODES: ReadonlySet<string> = new Set([
  'authentication_failed',
  'invalid_api_key',
  'device_revoked',
  'device_not_registered',
  'forbidden',
  'credential_in_use',
]);

function isSlow(problem: OctomilError, inUse: number): boolean {
  return SLOW_CODES.has(problem.code) && !(problem.code === 'credential_in_use' && inUse <= IN_USE_ATTEMPTS);
}

const ADVICE: Readonly<Record<string, string>> = {
  credential_in_use:
    'another agent uses this device credential; if the state folder was copied, remove it there and enrol that machine with a token of its own',
  device_revoked:
    'this device was revoked at the coordinator; enrol again with a token made for it (octomil enroll --device NAME)',
};
const CREDENTIAL_ADVICE =
  "the coordinator does not accept this device's credential; enrol again with a token made for it (octomil enroll --device NAME; set enrollment_token)";

/** Keeps the agent in session: enrols once, connects, and connects again for as long as it runs. */
export class CoordinatorSession {
  /** Resolves after `stop`; rejects when going on makes no sense (the enrolment token is spent). */
  readonly finished: Promise<void>;
  readonly #options: CoordinatorSessionOptions;
  readonly #stopping = new AbortController();
  readonly #processId = randomUUID();
  readonly #ready = Promise.withResolvers<void>();
  #credential: DeviceCredential | undefined;
  #lastEpoch = 0n;
  #connected = false;
  #problem: OctomilError | undefined;

  constructor(options: CoordinatorSessionOptions) {
    this.#options = options;
    this.#ready.promise.catch(() => undefined);
    this.finished = Promise.resolve().then(() => this.#run());
    this.finished.then(
      () => this.#ready.reject(new OctomilError('cancelled', 'the agent was stopped before it was connected')),
      (error: unknown) => this.#ready.reject(error),
    );
  }

  /** Resolves with the first Welcome; rejects as `finished` does. */
  get ready(): Promise<void> {
    return this.#ready.promise;
  }

  get credential(): DeviceCredential | undefined {
    return this.#credential;
  }

  /** Whether the coordinator knows of us at the moment, and if not, why. */
  get state(): { readonly connected: boolean; readonly problem: OctomilError | undefined } {
    return { connected: this.#connected, problem: this.#problem };
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new OctomilError('cancelled', 'the agent is stopping'));
    await this.finished.catch(() => undefined);
  }

  async #run(): Promise<void> {
    const { clock, random } = this.#options;
    const { signal } = this.#stopping;
    let attempt = 0;
    let inUse = 0;
    while (!signal.aborted) {
      const startedAtMs = clock.now();
      const problem = await this.#once();
      const welcomed = this.#connected;
      this.#connected = false;
      if (signal.aborted) return;
      this.#report(problem, inUse + 1);
      if (this.#credential === undefined && isEnrollmentRefusal(problem)) throw problem;
      if (clock.now() - startedAtMs > SETTLED_MS) attempt = 0;
      // One that is killed soon after each of its starts is there all the same, and is looked for as one that restarts.
      else if (welcomed) attempt = Math.min(attempt, ATTEMPT_AFTER_WELCOME);
      inUse = problem.code === 'credential_in_use' ? inUse + 1 : 0;
      const delayMs = isSlow(problem, inUse) ? slowRetryDelayMs(random()) : this.#quickDelayMs(inUse, attempt);
      attempt += 1;
      await clock.sleep(delayMs, signal).catch(() => undefined);
    }
  }

  #quickDelayMs(inUse: number, attempt: number): number {
    const { random } = this.#options;
    return inUse > 0 ? IN_USE_DELAY_MS * (0.5 + random()) : reconnectDelayMs(attempt, random());
  }

  /** One try: a credential where there is none, then a session to its end. */
  async #once(): Promise<OctomilError> {
    const { config, credentialPath, audit, delegate, clock, logger } = this.#options;
    const { signal } = this.#stopping;
    try {
      this.#credential ??= await this.#stored();
      const client = openCoordinatorClient(config);
      try {
        if (this.#credential === undefined || this.#mustEnrollAgain(this.#credential)) {
          this.#credential = await enroll(client, config, credentialPath, audit);
          this.#problem = undefined;
          logger.info({ deviceId: this.#credential.deviceId }, 'enrolled');
        }
        const { credential } = this.#credential;
        const hello = await this.#options.hello();
        if (signal.aborted) return new OctomilError('cancelled', 'the agent is stopping');
        const end = await runSession({
          client,
          credential,
          clock,
          signal,
          hello: {
            ...hello,
            processId: this.#processId,
            lastEpoch: this.#lastEpoch,
            inProgress: delegate.inProgress(),
          },
          delegate: {
            ...bound(delegate),
            connected: (link) => {
              this.#connected = true;
              this.#problem = undefined;
              logger.info({ coordinator: config.coordinator, deviceId: link.welcome.deviceId }, 'connected');
              this.#ready.resolve();
              delegate.connected(link);
            },
          },
        });
        if (end.epoch !== undefined) this.#lastEpoch = end.epoch;
        return end.reason;
      } finally {
        client.close();
      }
    } catch (error) {
      return toOctomilError(error);
    }
  }

  async #stored(): Promise<DeviceCredential | undefined> {
    const { config, credentialPath } = this.#options;
    const stored = await readCredential(credentialPath);
    if (stored !== undefined && stored.deviceIdentifier !== config.deviceIdentifier) {
      throw new OctomilError(
        'config_invalid',
        `the state folder belongs to device "${stored.deviceIdentifier}", but device_identifier is ` +
          `"${config.deviceIdentifier}"; correct it, or set another state_dir`,
      );
    }
    return stored;
  }

  /** A rejected credential and a token that was not spent yet: the operator wants this device enrolled anew. */
  #mustEnrollAgain(credential: DeviceCredential): boolean {
    const { enrollmentToken } = this.#options.config;
    const rejected = this.#problem !== undefined && SLOW_CODES.has(this.#problem.code);
    return rejected && enrollmentToken !== undefined && tokenDigest(enrollmentToken) !== credential.tokenSha256;
  }

  /** One line per change, however many attempts fail the same way. */
  #report(problem: OctomilError, inUse: number): void {
    const { logger, config } = this.#options;
    const before = this.#problem;
    this.#problem = problem;
    // Where the code is one for people, the stack of a failed call tells them nothing.
    const known = problem.code !== 'unknown' && problem.code !== 'server_error';
    const error = known ? problem.message : problem;
    const fields = { error, coordinator: config.coordinator };
    const turnsSlow = problem.code === 'credential_in_use' && inUse === IN_USE_ATTEMPTS + 1;
    if (before?.code === problem.code && !turnsSlow) logger.debug(fields, 'still not connected');
    else if (isSlow(problem, inUse)) {
      logger.error(fields, `${ADVICE[problem.code] ?? CREDENTIAL_ADVICE}: ${problem.reason}`);
    } else logger.warn(fields, `no session with the coordinator (${problem.reason}); trying again until there is one`);
  }
}

/** A delegate may be a class instance, which a spread would empty. */
function bound(delegate: SessionDelegate): SessionDelegate {
  return {
    inProgress: () => delegate.inProgress(),
    connected: (link) => delegate.connected(link),
    received: (event, link) => delegate.received(event, link),
    renewalSent: () => delegate.renewalSent(),
    renewalAnswered: () => delegate.renewalAnswered(),
    disconnected: () => delegate.disconnected(),
  };
}
