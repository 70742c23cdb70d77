// Runs agents for a benchmark: real ones, with their own sessions and state folders.
import { type Agent, parseAgentConfig, startAgent } from '@octomil/agent';
import { InProcessTrainer } from '@octomil/shared/training';
import type { LoadProcessTask } from './agent-processes.js';

process.once('message', (message) => {
  run(message as LoadProcessTask).catch((error: unknown) => {
    console.error(error);
    process.exit(1);
  });
});

async function run(task: LoadProcessTask): Promise<void> {
  const agents: Agent[] = [];
  for (const agent of task.agents) {
    const config = parseAgentConfig(
      {
        coordinator: task.coordinator,
        device_identifier: agent.deviceIdentifier,
        enrollment_token: agent.enrollmentToken,
        state_dir: agent.stateDir,
        log_level: 'warn',
        policy: { allow: [{ name: 'bench', federations: ['*'], models: ['*'], data_sets: ['*'] }] },
        ...(agent.dataPath === undefined ? {} : { data_sets: { default: { path: agent.dataPath } } }),
      },
      { folder: agent.stateDir, environment: {} },
    );
    agents.push(await startAgent(config, task.trainInProcess ? { trainer: new InProcessTrainer() } : {}));
  }
  await Promise.all(agents.map((agent) => agent.ready));
  process.send?.('ready');
  const stop = (): void => {
    void Promise.all(agents.map((agent) => agent.stop())).then(() => process.exit(0));
  };
  process.once('SIGTERM', stop);
  process.once('disconnect', stop);
}
