import { OctomilError, toOctomilError } from '@octomil/shared/errors';
import { type Clock, silentLogger, systemClock } from '@octomil/shared/runtime';
import Fastify from 'fastify';
import type { InferenceEvent } from '../../quality/index.js';
import type { BackendTimeouts } from '../deadlines.js';
import { createGateway, type Gateway, type GatewayLimits } from '../gateway.js';
import { registerInferenceRoutes } from '../inference-routes.js';
import { ollamaBackend } from '../ollama-backend.js';
import { openAiBackend } from '../openai-backend.js';
import { registerOpenAiRoutes } from '../openai-routes.js';

export interface GatewayApp {
  readonly url: string;
  readonly gateway: Gateway;
  readonly events: InferenceEvent[];
  stop(): Promise<void>;
}

export interface GatewayAppOptions {
  readonly ollama?: string;
  readonly openAi?: string;
  readonly timeouts?: Partial<BackendTimeouts>;
  readonly limits?: Partial<GatewayLimits>;
  readonly clock?: Clock;
  /** Tells organizations apart, by the header `x-organization`. */
  readonly grouped?: boolean;
}

/** The gateway on an application of its own, listening. */
export async function startGatewayApp(options: GatewayAppOptions): Promise<GatewayApp> {
  const { ollama, openAi, timeouts = {}, limits = {}, clock = systemClock } = options;
  const gateway = createGateway({
    backends: [
      ...(ollama === undefined ? [] : [ollamaBackend({ baseUrl: ollama, timeouts, clock })]),
      ...(openAi === undefined ? [] : [openAiBackend({ baseUrl: openAi, apiKey: 'sk-test', timeouts, clock })]),
    ],
    clock,
    logger: silentLogger,
    limits,
  });
  const events: InferenceEvent[] = [];
  const app = Fastify({ forceCloseConnections: true });
  app.setErrorHandler((thrown, _request, reply) => {
    const { statusCode } = thrown as { statusCode?: number };
    const error =
      statusCode !== undefined && statusCode < 500
        ? new OctomilError('invalid_input', (thrown as Error).message)
        : toOctomilError(thrown);
    return reply.code(error.entry.http).send(error.toBody());
  });
  const routes = {
    gateway,
    clock,
    authorize: ({ headers }: { headers: Record<string, unknown> }) => String(headers['x-organization'] ?? ''),
    ...(options.grouped === true ? { groupOf: (caller: string) => caller } : {}),
    recordEvent: (_: string, event: InferenceEvent) => events.push(event),
  };
  registerInferenceRoutes(app, routes);
  registerOpenAiRoutes(app, routes);
  const url = await app.listen({ host: '127.0.0.1', port: 0 });
  return {
    url,
    gateway,
    events,
    stop: async () => {
      await gateway.stop();
      await app.close();
    },
  };
}

/** What a client reads of a stream: the data of each event, and whether it was an error. */
export interface ReadEvent {
  readonly event: string;
  readonly data: Record<string, unknown>;
}

export function readEvents(text: string): ReadEvent[] {
  return text
    .split('\n\n')
    .filter((block) => block.includes('data:') && !block.includes('[DONE]'))
    .map((block) => ({
      event: /^event: (.*)$/m.exec(block)?.[1] ?? 'message',
      data: JSON.parse(/^data: (.*)$/m.exec(block)?.[1] ?? '{}') as Record<string, unknown>,
    }));
}
