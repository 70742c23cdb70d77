import type { SiteStatistics } from '@octomil/shared/features';
import type { DescribeTask } from './task.js';

/** @throws OctomilError `data_unreadable`, `data_mismatch` */
export async function describeTable(task: DescribeTask, signal?: AbortSignal): Promise<SiteStatistics> {
  const { describeSource } = await import('@octomil/shared/features');
  return describeSource(task, signal);
}
