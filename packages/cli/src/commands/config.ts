import type { Options } from '../program.js';
import { print } from '../terminal/output.js';

/** Shows what would be run with, secrets left out. */
export async function showConfig(options: Options): Promise<void> {
  const shown = typeof options['agent'] === 'string' ? await agentConfig(options['agent']) : await coordinatorConfig();
  await print(options['json'], shown, async () => (await import('yaml')).stringify(shown).trimEnd());
}

async function agentConfig(path: string): Promise<Record<string, unknown>> {
  const { loadAgentConfig, redactedConfig } = await import('@octomil/agent');
  return redactedConfig(loadAgentConfig({ path }));
}

async function coordinatorConfig(): Promise<Record<string, unknown>> {
  const { readCoordinatorConfig, redactedCoordinatorConfig } = await import('@octomil/coordinator');
  return redactedCoordinatorConfig(readCoordinatorConfig(process.env));
}
