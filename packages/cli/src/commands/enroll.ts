import { Organization } from '@octomil/sdk';
import { stringify } from 'yaml';
import { connection } from '../access/connect.js';
import type { Options } from '../program.js';
import { print } from '../terminal/output.js';

/**
 * Where an agent reaches gRPC. The port is the coordinator's; its host too where it has a public one. One that listens on
 * every address, or on this machine's own, does not know its name: then it is the host that REST was reached at.
 *
 * @param told the coordinator's own answer, such as `grpcs://octomil.example:8001`
 */
export function agentAddress(told: unknown, apiBase: string): string {
  const { protocol, hostname } = new URL(apiBase);
  const [, scheme = protocol === 'https:' ? 'grpcs' : 'grpc', host = '', port = '8001'] =
    /^(grpcs?):\/\/(\[.*\]|[^:]*):(\d+)$/.exec(String(told)) ?? [];
  const nameless = host === '' || /^(0\.0\.0\.0|\[::1?\]|127\..*|localhost)$/.test(host);
  return `${scheme}://${nameless ? hostname : host}:${port}`;
}

/** Mints a token for one device, new or known, and prints an `agent.yaml` that an administrator at the site completes. */
export async function enroll(options: Options): Promise<void> {
  const labels = options['label'] as Record<string, string> | undefined;
  const expiresInSeconds = options['expires'] as number | undefined;
  const device = String(options['device']);
  const access = await connection();
  const answer = await new Organization(access).createEnrollmentToken({
    deviceIdentifier: device,
    ...(labels === undefined ? {} : { labels }),
    ...(expiresInSeconds === undefined ? {} : { expiresInSeconds }),
  });
  const token = String(answer['token'] ?? answer['enrollmentToken']);
  const config = {
    coordinator: agentAddress(answer['grpcAddress'], access.apiBase),
    device_identifier: device,
    enrollment_token: token,
    state_dir: './agent-state',
    data_sets: { default: { path: './data.csv' } },
    ...(labels === undefined ? {} : { labels }),
    policy: {
      allow: [{ name: 'our-federation', federations: ['my-federation'], models: ['*'], data_sets: ['default'] }],
    },
  };
  await print(
    options['json'],
    { ...answer, token, config },
    () =>
      `# agent.yaml: complete it at the site, then run: octomil agent --config agent.yaml\n` +
      `# The token enrols ${device}, once${answer['expiresAt'] === undefined ? '' : `, until ${String(answer['expiresAt'])}`}.\n` +
      `# Nothing is trained on that no rule of the policy allows.\n${stringify(config)}`,
  );
}
