import type { Logger } from '@octomil/shared/runtime';
import { Redis } from 'ioredis';
import type { CountStore } from './shared-counts.js';

const KEEP_SECONDS = 5;

/** Counts on Redis. Commands fail at once while the server is away: counting alone is better than waiting. */
export function openRedisCounts(url: string, logger: Logger): CountStore & { close(): Promise<void> } {
  const redis = new Redis(url, { enableOfflineQueue: false, maxRetriesPerRequest: 0, connectTimeout: 2_000 });
  redis.on('error', (error) => logger.debug({ error }, 'the connection for request counts met an error'));
  return {
    async addAll(counts) {
      const pipeline = redis.pipeline();
      for (const [name, by] of counts) pipeline.incrby(name, by).expire(name, KEEP_SECONDS);
      const answers = (await pipeline.exec()) ?? [];
      return counts.map((_, index) => {
        const [error, total] = answers[2 * index] ?? [];
        if (error) throw error;
        return Number(total ?? 0);
      });
    },
    async close() {
      redis.disconnect();
    },
  };
}
