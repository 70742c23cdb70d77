import type { DesiredPort, DownloadPort } from '../rollouts/index.js';

/** For tests of sessions and transfers in which nothing is rolled out. */
export const NO_ROLLOUTS: DesiredPort & DownloadPort = {
  opened: () => undefined,
  closed: () => undefined,
  devicesChanged: () => undefined,
  observeRaw: async () => new Set(),
  desiredObject: async () => undefined,
  toldObject: async () => undefined,
  objectMissing: async () => undefined,
};
