import type { Clock, Logger } from '@octomil/shared/runtime';
import type { ObjectStore } from '@octomil/shared/storage';
import type { Database } from '../database/database.js';
import type { App } from '../http/app.js';
import type { Jobs } from '../jobs/index.js';
import type { DirectDownloads } from '../transfers/index.js';
import { ArtifactObjects } from './artifact-objects.js';
import type { VersionConversions } from './conversion-port.js';
import { DirectArtifacts } from './direct-artifacts.js';
import { registerDownloadRoutes } from './download-routes.js';
import { registerModelRoutes } from './model-routes.js';
import { RegisteredFiles } from './registered-files.js';
import type { Registry } from './registry.js';
import { Removal } from './removal.js';
import { SignedAddresses } from './signed-address.js';
import { signingSecrets } from './signing-secrets.js';
import { registerUploadRoutes } from './upload-routes.js';
import { registerVersionRoutes } from './version-routes.js';
import { VersionUploads } from './version-upload.js';

export interface RegistryRoutesOptions {
  readonly registry: Registry;
  readonly database: Database;
  readonly objects: ObjectStore;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Secret of an API key; undefined once it is revoked. */
  readonly signingSecret: (keyId: string) => Promise<string | undefined>;
  /** Where callers can reach this coordinator; each request's own address when undefined. */
  readonly publicUrl: string | undefined;
  readonly conversions?: VersionConversions;
  /** Default: downloads come from here. */
  readonly downloads?: DirectDownloads;
  /** Wake-ups for who checks what was sent to the bucket. */
  readonly jobs?: Jobs;
  /** Of who checks it. Default 30 s. */
  readonly checkLeaseMs?: number | undefined;
}

/** The whole Models API over one registry, and the sweep of what uploads and deletions leave. */
export function createRegistryRoutes(options: RegistryRoutesOptions): {
  register(app: App): void;
  readonly artifacts: ArtifactObjects;
  readonly direct: DirectArtifacts;
} {
  const { registry, database, objects, clock, logger, publicUrl, conversions, downloads, jobs, checkLeaseMs } = options;
  const signingSecret = signingSecrets(database, options.signingSecret);
  const artifacts = new ArtifactObjects({ database, objects, clock, logger });
  const removal = new Removal(database, artifacts);
  const direct = new DirectArtifacts({
    database,
    registry,
    objects,
    artifacts,
    jobs,
    checkLeaseMs,
    clock,
    logger,
    ...(conversions === undefined ? {} : { conversions }),
  });
  const uploads = new VersionUploads({
    direct,
    registry,
    objects,
    artifacts,
    clock,
    addresses: new SignedAddresses({ purpose: 'upload', clock, signingSecret }),
    ...(conversions === undefined ? {} : { conversions }),
  });
  return {
    artifacts,
    direct,
    register(app) {
      registerModelRoutes(app, { database, registry, removal });
      registerVersionRoutes(app, { registry, database, uploads, removal });
      registerUploadRoutes(app, {
        registry,
        uploads,
        registered: new RegisteredFiles(database, objects, uploads),
        publicUrl,
      });
      const addresses = new SignedAddresses({ purpose: 'download', clock, signingSecret });
      registerDownloadRoutes(app, {
        registry,
        objects,
        addresses,
        publicUrl,
        logger,
        ...(downloads === undefined ? {} : { downloads }),
      });
    },
  };
}
