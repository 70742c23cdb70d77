import { expect, test } from '@jest/globals';
import { onBench } from '../testing/agent-under-test.js';

test('health, readiness with its reason, and metrics that count', () =>
  onBench(async (bench) => {
    const { coordinator } = bench;
    await coordinator.stop();
    const agent = await bench.start({ metrics: { port: 0 } });
    const get = (path: string): Promise<Response> => fetch(`http://127.0.0.1:${agent.metricsPort}${path}`);
    expect((await get('/healthz')).status).toBe(200);
    await coordinator.until(() => bench.log.some(({ level }) => level === 'warn'));
    const notReady = await get('/readyz');
    expect(notReady.status).toBe(503);
    expect(await notReady.json()).toMatchObject({
      status: 'not_ready',
      reason: expect.stringContaining('[network_unavailable]'),
    });
    await coordinator.start();
    await agent.ready;
    expect((await get('/readyz')).status).toBe(200);
    coordinator.assign({ ref: { assignmentId: 'a', attempt: 1 }, base: coordinator.addObject(Buffer.alloc(1_000, 1)) });
    await coordinator.until(() => bench.log.some(({ message }) => message === 'update accepted'));
    await coordinator.until(() => true);
    const text = await (await get('/metrics')).text();
    expect(text).toContain('octomil_agent_connected 1');
    expect(text).toContain('octomil_agent_uploaded_bytes_total 1000');
    expect(text).toContain('octomil_agent_downloaded_bytes_total 1000');
    expect((await get('/nothing')).status).toBe(404);
    const other = bench.start({ metrics: { port: agent.metricsPort }, state_dir: 'other' });
    await expect(other).rejects.toMatchObject({ code: 'port_in_use' });
  }));
