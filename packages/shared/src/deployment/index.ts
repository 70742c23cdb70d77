export type { DeviceModelHealth } from './device-model-health.js';
