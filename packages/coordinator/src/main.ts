import { join } from 'node:path';
import { createLogger } from '@octomil/shared/runtime';
import { type Coordinator, startCoordinator } from './start-coordinator.js';

/** Stopping may take this long before the process ends anyway. */
const STOP_WITHIN_MS = 20_000;

/** Runs a coordinator from the environment until SIGTERM or SIGINT; a second signal ends it at once. */
async function main(): Promise<void> {
  const asked = Promise.withResolvers<NodeJS.Signals>();
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.once(signal, () => {
      asked.resolve(signal);
      process.once(signal, () => process.exit(1));
    });
  }
  const logger = createLogger('coordinator', 'info');
  let coordinator: Coordinator;
  try {
    coordinator = await startCoordinator();
  } catch (error) {
    logger.error({ error }, 'the coordinator did not start');
    process.exitCode = 1;
    return;
  }
  if (coordinator.bootstrapApiKey !== undefined) {
    const file = join(coordinator.context.config.dataDir, 'bootstrap-key');
    logger.info({ file }, 'made the organization "default"; its first API key is in this file');
  }
  logger.info({ signal: await asked.promise }, 'stopping');
  const timer = setTimeout(() => {
    logger.error({ STOP_WITHIN_MS }, 'stopping took too long');
    process.exit(1);
  }, STOP_WITHIN_MS);
  timer.unref();
  await coordinator.stop();
}

await main();
