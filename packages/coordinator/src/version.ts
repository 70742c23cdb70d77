import { createRequire } from 'node:module';

/** Of this package; agents are told it. */
export const COORDINATOR_VERSION = (createRequire(import.meta.url)('../package.json') as { version: string }).version;
