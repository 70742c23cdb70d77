import type { Clock } from '@octomil/shared/runtime';
import type { App } from '../http/index.js';
import { SignedAddresses } from '../models/signed-address.js';
import { type DeviceAuthRoutesOptions, registerDeviceAuthRoutes } from './auth-routes.js';
import { registerDeviceGroupRoutes } from './group-routes.js';
import { registerDeviceRoutes } from './routes.js';
import { type DeviceSyncRoutesOptions, registerDeviceSyncRoutes } from './sync-routes.js';

export interface DeviceApiOptions extends Omit<DeviceSyncRoutesOptions, 'addresses'>, DeviceAuthRoutesOptions {
  readonly clock: Clock;
}

/** Everything that REST offers of devices: the devices, their groups, what they should run, and their tokens. */
export function registerDeviceApi(app: App, options: DeviceApiOptions): void {
  const { devices, clock } = options;
  const addresses = new SignedAddresses({
    purpose: 'download',
    clock,
    signingSecret: (deviceId) => devices.records.downloadSecret(deviceId),
  });
  registerDeviceRoutes(app, options);
  registerDeviceGroupRoutes(app, options);
  registerDeviceSyncRoutes(app, { ...options, addresses });
  registerDeviceAuthRoutes(app, options);
}
