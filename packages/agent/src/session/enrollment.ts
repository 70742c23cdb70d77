import { hostname } from 'node:os';
import { Metadata } from '@grpc/grpc-js';
import { OctomilError } from '@octomil/shared/errors';
import type { AuditLog } from '../audit/audit-log.js';
import type { AgentConfig } from '../config/agent-config.js';
import type { CoordinatorClient } from '../connection/coordinator-client.js';
import { fromGrpcError } from '../connection/problem.js';
import { type DeviceCredential, tokenDigest, writeCredential } from '../state/credential.js';
import { AGENT_VERSION } from '../version.js';

const ENROLL_TIMEOUT_MS = 15_000;

/** Codes after which the same token will never work; `conflict`: the device exists, and the token was not made for it. */
const SPENT: ReadonlySet<string> = new Set([
  'enrollment_token_invalid',
  'enrollment_token_used',
  'token_expired',
  'conflict',
]);

/** True when only a new enrolment token (or another configuration) can help. */
export function isEnrollmentRefusal(error: OctomilError): boolean {
  return SPENT.has(error.code) || error.code === 'config_invalid';
}

/**
 * Buys a credential with the configured token and stores it.
 *
 * @throws OctomilError `config_invalid` without a token, `enrollment_token_invalid`, `enrollment_token_used`,
 * `network_unavailable`; `insufficient_storage` when the credential cannot be written
 */
export async function enroll(
  client: CoordinatorClient,
  config: Pick<AgentConfig, 'enrollmentToken' | 'deviceIdentifier' | 'labels'>,
  credentialPath: string,
  audit: Pick<AuditLog, 'record'>,
): Promise<DeviceCredential> {
  const { enrollmentToken, deviceIdentifier, labels } = config;
  if (enrollmentToken === undefined) {
    throw new OctomilError(
      'config_invalid',
      'this agent is not enrolled and has no enrollment_token; create one with "octomil enroll" at the coordinator ' +
        'and set enrollment_token, enrollment_token_file or OCTOMIL_ENROLLMENT_TOKEN',
    );
  }
  await audit.record({ kind: 'enrollment', details: { deviceIdentifier, labels, hostName: hostname() } });
  const response = await new Promise<{ deviceId: string; organizationId: string; credential: string }>(
    (resolve, reject) => {
      client.enroll(
        { enrollmentToken, deviceIdentifier, labels: { ...labels }, agentVersion: AGENT_VERSION },
        new Metadata(),
        { deadline: Date.now() + ENROLL_TIMEOUT_MS },
        (error, answer) => {
          if (error !== null) reject(fromGrpcError(error));
          else if (answer === undefined)
            reject(new OctomilError('server_error', 'the enrolment was answered by nothing'));
          else resolve(answer);
        },
      );
    },
  );
  const credential: DeviceCredential = {
    deviceId: response.deviceId,
    organizationId: response.organizationId,
    deviceIdentifier,
    credential: response.credential,
    tokenSha256: tokenDigest(enrollmentToken),
  };
  try {
    await writeCredential(credentialPath, credential);
  } catch (error) {
    throw new OctomilError(
      'insufficient_storage',
      `enrolled as ${credential.deviceId}, but the credential cannot be written to ${credentialPath} ` +
        `(${(error as NodeJS.ErrnoException).code}); make room, revoke that device and enrol with a new token`,
      { cause: error },
    );
  }
  return credential;
}
