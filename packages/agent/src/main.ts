import { toOctomilError } from '@octomil/shared/errors';
import { createLogger } from '@octomil/shared/runtime';
import { type AgentOverrides, startAgent } from './agent.js';
import { type LoadOptions, loadAgentConfig } from './config/load-config.js';

export interface RunAgentOptions extends LoadOptions {
  readonly overrides?: AgentOverrides;
  /** Stops the agent, besides SIGTERM and SIGINT. */
  readonly signal?: AbortSignal;
}

/**
 * Runs the agent until SIGTERM or SIGINT (a second one ends the process at once).
 *
 * @throws OctomilError `config_invalid`, `store_locked`, `port_in_use`, `enrollment_token_invalid`, `enrollment_token_used`
 */
export async function runAgent(options: RunAgentOptions): Promise<void> {
  const config = loadAgentConfig(options);
  const logger = options.overrides?.logger ?? createLogger('agent', config.logLevel);
  const agent = await startAgent(config, { ...options.overrides, logger });
  const asked = Promise.withResolvers<void>();
  let signals = 0;
  const onSignal = (signal: NodeJS.Signals): void => {
    signals += 1;
    if (signals > 1) process.exit(1);
    logger.info({ signal, graceMs: config.stopGraceMs }, 'stopping');
    asked.resolve();
  };
  process.on('SIGTERM', onSignal).on('SIGINT', onSignal);
  options.signal?.addEventListener('abort', () => asked.resolve(), { once: true });
  if (options.signal?.aborted) asked.resolve();
  try {
    await Promise.race([asked.promise, agent.finished]);
  } catch (thrown) {
    const error = toOctomilError(thrown);
    logger.error(
      { error: error.code === 'unknown' ? error : error.message },
      `the agent cannot go on: ${error.reason}`,
    );
    throw error;
  } finally {
    await agent.stop();
    process.off('SIGTERM', onSignal).off('SIGINT', onSignal);
  }
}
