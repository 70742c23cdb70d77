import {
  backendsOf,
  createGateway,
  type Gateway,
  type GatewayConfig,
  type RouteHost,
  registerInferenceRoutes,
  registerOpenAiRoutes,
} from '@octomil/inference/gateway';
import type { Clock, Logger } from '@octomil/shared/runtime';
import type { Database } from '../database/database.js';
import type { App } from '../http/index.js';
import { EventIntake } from './event-intake.js';
import { EventSweeper } from './event-sweeper.js';
import { callerOf, registerQualityRoutes } from './routes.js';

export interface InferenceServiceOptions {
  readonly database: Database;
  readonly config: GatewayConfig;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface InferenceService {
  readonly gateway: Gateway;
  readonly intake: EventIntake;
  register(app: App): void;
  start(): void;
  /** Ends streams that are under way. Safe to repeat. */
  stop(): Promise<void>;
}

/** What the gateway generates is told from what devices run themselves. */
const GATEWAY_VERSION = 'cloud';

/** Inference through the coordinator: the gateway to model servers, what happened there, and how it went. */
export function createInferenceService({ database, config, clock, logger }: InferenceServiceOptions): InferenceService {
  const gateway = createGateway({
    backends: backendsOf(config, clock),
    clock,
    logger,
    limits: { maxShareRatio: config.maxShareRatio },
  });
  const intake = new EventIntake({ database, clock, logger });
  const sweeper = new EventSweeper({ database, clock, logger });
  return {
    gateway,
    intake,
    register: (app) => {
      const host: RouteHost = app;
      const options: Parameters<typeof registerInferenceRoutes<ReturnType<typeof callerOf>>>[1] = {
        gateway,
        clock,
        authorize: (request) => callerOf(request, 'cloud:inference'),
        groupOf: ({ organizationId }) => organizationId,
        recordEvent: ({ organizationId, deviceId }, event) =>
          intake.note(
            { organizationId, speaksForEnrolled: true },
            {
              ...event,
              version: GATEWAY_VERSION,
              ...(deviceId === undefined ? {} : { device_id: deviceId }),
            },
          ),
      };
      registerInferenceRoutes(host, options);
      registerOpenAiRoutes(host, options);
      registerQualityRoutes(app, { database, intake, nowMs: () => clock.now() });
    },
    start: () => sweeper.start(),
    stop: async () => {
      await gateway.stop();
      await intake.settle();
      await sweeper.stop();
    },
  };
}
