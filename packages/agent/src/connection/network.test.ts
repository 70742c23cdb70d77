import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { type Bench, onBench } from '../testing/agent-under-test.js';
import { hasOpenssl, makeCertificates, type TestCertificates } from '../testing/certificates.js';
import { startConnectProxy } from '../testing/connect-proxy.js';

const withOpenssl = hasOpenssl() ? test : test.skip;

/** A round with a base by HTTP and an update in parts. */
async function fullRound({ coordinator }: Bench, id: string): Promise<void> {
  const base = coordinator.addObject(Buffer.alloc(150_000, id.length));
  coordinator.assign({ ref: { assignmentId: id, attempt: 1 }, base });
  await coordinator.until(() => coordinator.updates.has(id));
}

async function withCertificates(run: (certificates: TestCertificates) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'octomil-tls-'));
  try {
    await run(makeCertificates(folder));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test('a proxy is taken for gRPC and HTTP alike, with its login', async () => {
  const proxy = await startConnectProxy();
  try {
    await onBench(async (bench) => {
      bench.coordinator.inlineMaxBytes = 1_000;
      const agent = await bench.start({ proxy: proxy.url });
      await agent.ready;
      await fullRound(bench, 'a');
      expect(new Set(proxy.targets)).toEqual(
        new Set([`127.0.0.1:${bench.coordinator.grpcPort}`, `127.0.0.1:${bench.coordinator.httpPort}`]),
      );
      expect(bench.coordinator.httpRequests.some((line) => /\/complete\b/.test(line))).toBe(true);
      expect(bench.coordinator.downloadsByGrpc).toBe(0);
    });
  } finally {
    await proxy.close();
  }
});

withOpenssl('TLS with a private CA works for gRPC and HTTP (needs openssl)', () =>
  withCertificates((certificates) =>
    onBench(async (bench) => {
      bench.coordinator.inlineMaxBytes = 1_000;
      const agent = await bench.start({ tls: { ca: certificates.caPath } });
      await agent.ready;
      await fullRound(bench, 'a');
      expect(bench.coordinator.httpRequests.some((line) => /\/complete\b/.test(line))).toBe(true);
    }, certificates),
  ),
);

withOpenssl('TLS through a proxy works, down to the name in the certificate (needs openssl)', async () => {
  const proxy = await startConnectProxy();
  try {
    await withCertificates((certificates) =>
      onBench(async (bench) => {
        bench.coordinator.inlineMaxBytes = 1_000;
        const agent = await bench.start({ tls: { ca: certificates.caPath }, proxy: proxy.url });
        await agent.ready;
        await fullRound(bench, 'a');
        expect(new Set(proxy.targets).size).toBe(2);
      }, certificates),
    );
  } finally {
    await proxy.close();
  }
});

withOpenssl('an authority that is not known is refused and named in the log (needs openssl)', () =>
  withCertificates((certificates) =>
    onBench(async (bench) => {
      const agent = await bench.start();
      await bench.coordinator.until(() => bench.log.some(({ level }) => level === 'warn'));
      expect(agent.connected).toBe(false);
      expect(bench.log.find(({ level }) => level === 'warn')?.message).toMatch(/certificate|self.signed|issuer/i);
      expect(bench.coordinator.usedTokens.size).toBe(0);
    }, certificates),
  ),
);
