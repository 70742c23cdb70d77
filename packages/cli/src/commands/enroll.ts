import { Organization } from '@octomil/sdk';
import { stringify } from 'yaml';
import type { Options } from '../program.js';
import { print } from '../terminal/output.js';

/** Mints a token and prints an `agent.yaml` that an administrator at the site completes. */
export async function enroll(options: Options): Promise<void> {
  const labels = options['label'] as Record<string, string> | undefined;
  const expiresInSeconds = options['expires'] as number | undefined;
  const answer = await new Organization().createEnrollmentToken({
    ...(labels === undefined ? {} : { labels }),
    ...(expiresInSeconds === undefined ? {} : { expiresInSeconds }),
  });
  const token = String(answer['token'] ?? answer['enrollmentToken']);
  const grpc = answer['grpcAddress'];
  const config = {
    coordinator: typeof grpc === 'string' ? grpc : 'http://127.0.0.1:8001',
    device_identifier: String(options['device']),
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
      `# The token enrols one device, once${answer['expiresAt'] === undefined ? '' : `, until ${String(answer['expiresAt'])}`}.\n` +
      `# Nothing is trained on that no rule of the policy allows.\n${stringify(config)}`,
  );
}
