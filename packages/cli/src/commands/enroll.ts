import { DEFAULT_API_BASE, Organization } from '@octomil/sdk';
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
  // Agents talk to another port of the same host; the coordinator does not say which, so the usual one is a guess.
  const host = new URL(process.env['OCTOMIL_API_BASE'] || DEFAULT_API_BASE).hostname;
  const config = {
    coordinator: `${host}:8001`,
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
