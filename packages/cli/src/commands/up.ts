import { join } from 'node:path';
import { startCoordinator } from '@octomil/coordinator';
import type { Options } from '../program.js';
import { interruptible } from '../terminal/interrupt.js';
import { print } from '../terminal/output.js';
import { parentGone } from '../terminal/parent.js';

const OPTION_VARIABLES: Readonly<Record<string, string>> = {
  dataDir: 'OCTOMIL_DATA_DIR',
  host: 'OCTOMIL_HOST',
  restPort: 'OCTOMIL_REST_PORT',
  grpcPort: 'OCTOMIL_GRPC_PORT',
};

/** Runs a coordinator until it is stopped. What is given as an option wins over the environment. */
export async function up(options: Options): Promise<void> {
  const environment: Record<string, string | undefined> = { ...process.env };
  for (const [option, variable] of Object.entries(OPTION_VARIABLES)) {
    if (options[option] !== undefined) environment[variable] = String(options[option]);
  }
  const { signal, release } = interruptible();
  const coordinator = await startCoordinator({ environment });
  try {
    const apiBase = `${coordinator.restUrl}/api/v1`;
    const addresses = {
      apiBase,
      restUrl: coordinator.restUrl,
      grpcAddress: coordinator.grpcAddress,
      ...(coordinator.bootstrapApiKey === undefined ? {} : { apiKey: coordinator.bootstrapApiKey }),
    };
    await print(options['json'], addresses, () =>
      greeting(addresses, join(coordinator.context.config.dataDir, 'bootstrap-key')),
    );
    await untilAborted(AbortSignal.any([signal, parentGone()]));
  } finally {
    await coordinator.stop();
    release();
  }
}

function greeting(addresses: { apiBase: string; grpcAddress: string; apiKey?: string }, keyFile: string): string {
  // A key in the file of an earlier start may have been revoked since; the path is a hint, not a promise.
  const key =
    addresses.apiKey === undefined
      ? [`API key        made at the first start and kept in ${keyFile}`]
      : [`API key        ${addresses.apiKey}`, `               kept in ${keyFile} as well`];
  return [
    `REST           ${addresses.apiBase}`,
    `Agents (gRPC)  ${addresses.grpcAddress}`,
    ...key,
    '',
    'In another terminal:',
    `  export OCTOMIL_API_BASE=${addresses.apiBase} OCTOMIL_API_KEY=${addresses.apiKey ?? `$(cat ${keyFile})`}`,
    '  octomil enroll --device hospital-001 > agent.yaml     # complete it, then:',
    '  octomil agent --config agent.yaml',
    '  octomil models ensure my-model',
    '  octomil train --federation my-federation --model my-model --architecture logistic --target outcome',
    '',
    'Ctrl-C stops it.',
  ].join('\n');
}

function untilAborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    // The signal alone does not keep the process alive; the servers do.
    signal.addEventListener('abort', () => resolve(), { once: true });
  });
}
