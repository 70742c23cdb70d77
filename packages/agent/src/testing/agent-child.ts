// An agent in a process of its own, for tests that kill it. Arguments: the settings as JSON, and a kind of task on which
// its trainer hangs.
import { createLogger } from '@octomil/shared/runtime';
import { startAgent } from '../agent.js';
import { parseAgentConfig } from '../config/load-config.js';
import { FakeTrainer } from './fake-trainer.js';

const settings = JSON.parse(process.argv[2] ?? '{}') as Record<string, unknown>;
const config = parseAgentConfig(settings, { folder: process.cwd(), environment: {} });
const trainer = new FakeTrainer();
trainer.hangsOn = process.argv[3] as FakeTrainer['hangsOn'];
const agent = await startAgent(config, { trainer, logger: createLogger('agent', 'info') });
process.once('SIGTERM', () => void agent.stop());
await agent.finished;
