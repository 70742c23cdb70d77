export { type Clock, systemClock } from './clock.js';
export { type EntryPoint, entryPoint } from './entry-point.js';
export { type FolderLock, lockFolder } from './folder-lock.js';
export { Lifecycle, type Service } from './lifecycle.js';
export { createLogger, type Logger, type LogLevel, silentLogger } from './logger.js';
export { createMetrics, METRIC_NAMES, type Metrics } from './metrics.js';
export { noteNetworkGarbage } from './network-garbage.js';
export {
  choiceSetting,
  describeSettings,
  flagSetting,
  integerSetting,
  readSettings,
  reportProblems,
  type Setting,
  textSetting,
} from './settings.js';
