import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import { ERROR_CODES } from '@octomil/shared/errors';
import type { RouteOptions } from 'fastify';
import { COORDINATOR_VERSION } from '../version.js';
import type { App } from './app.js';

type Json = Record<string, unknown>;
const METHODS = ['get', 'post', 'put', 'patch', 'delete'] as const;

const ERROR_SCHEMA = {
  type: 'object',
  description: 'Every failure has this body. `code` is for programs; docs/reference/errors.md lists all of them.',
  required: ['error', 'code', 'message', 'detail', 'retryable', 'category', 'request_id'],
  properties: {
    error: { type: 'string', description: 'the name of the status, such as `not_found`' },
    code: { type: 'string', enum: Object.keys(ERROR_CODES) },
    message: { type: 'string', description: 'what was wrong, the value, the limit and what to do' },
    detail: { type: 'string', description: 'the same text, for older clients' },
    retryable: {
      type: 'boolean',
      description: 'whether the same request may simply be sent again, with growing pauses',
    },
    category: { type: 'string' },
    request_id: { type: 'string' },
    details: { type: 'object', description: 'facts for programs: the field, the state, the id of what is in the way' },
  },
};

const FAILURE = {
  description: 'Failure; 429 and some others say in `Retry-After` how many seconds to wait',
  content: { 'application/json': { schema: { $ref: '#/components/schemas/Error' } } },
};

const IDEMPOTENCY_KEY = {
  name: 'Idempotency-Key',
  in: 'header',
  required: false,
  description: 'The same key with the same body within 24 hours is answered from what is stored, and done once.',
  schema: { type: 'string', minLength: 1, maxLength: 255 },
};

/** The page loads nothing from elsewhere, and a name with HTML in it runs nothing. */
const CONTENT_SECURITY_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** OpenAPI 3 of every route at `/openapi.json`, and a page to read and try it at `/docs`. Before the routes. */
export async function registerOpenApi(app: App): Promise<void> {
  const routes = new Map<string, RouteOptions>();
  app.addHook('onRoute', (route) => {
    for (const method of [route.method].flat()) routes.set(`${method} ${openApiPath(route.url)}`, route);
  });
  await app.register(swagger, {
    openapi: {
      openapi: '3.0.3',
      info: {
        title: 'Octomil',
        version: COORDINATOR_VERSION,
        description: 'Federated training, models and rollouts. Times are UTC with `Z`; percentages are 0 to 100.',
      },
      components: {
        securitySchemes: {
          bearer: {
            type: 'http',
            scheme: 'bearer',
            description: 'An API key (`edg_…`), or the credential or access token of a device (`odc_…`, `oda_…`)',
          },
        },
      },
      security: [{ bearer: [] }],
    },
    transformObject: (document) => complete('openapiObject' in document ? document.openapiObject : {}, routes) as never,
  });
  // Made once: everything is registered by then, and the document has hundreds of kilobytes.
  let text: string | undefined;
  app.get('/openapi.json', { config: { access: 'public' }, schema: { hide: true } }, async (_request, reply) => {
    text ??= JSON.stringify(app.swagger());
    return reply.type('application/json; charset=utf-8').send(text);
  });
  await app.register(async (scope) => {
    scope.addHook('onRoute', (route) => {
      route.config = { ...route.config, access: 'public' };
    });
    await scope.register(swaggerUi, {
      routePrefix: '/docs',
      staticCSP: CONTENT_SECURITY_POLICY,
      theme: { title: 'Octomil API' },
      uiConfig: { url: '/openapi.json', validatorUrl: 'none', docExpansion: 'list', deepLinking: true },
    });
  });
}

function complete(document: object, routes: ReadonlyMap<string, RouteOptions>): Json {
  const whole = document as { paths?: Record<string, Record<string, Json>>; components?: Json };
  const tags = new Set<string>();
  for (const [path, item] of Object.entries(whole.paths ?? {})) {
    for (const method of METHODS) {
      const operation = item[method];
      if (operation === undefined) continue;
      const tag = tagOf(path);
      operation['tags'] ??= [tag];
      for (const name of operation['tags'] as string[]) tags.add(name);
      operation['operationId'] ??= operationId(method, path);
      const responses = operation['responses'] as Record<string, Json> | undefined;
      for (const response of Object.values(responses ?? {})) {
        if (response['description'] === 'Default Response') response['description'] = 'Success';
      }
      operation['responses'] = { ...responses, default: FAILURE };
      const config = routes.get(`${method.toUpperCase()} ${path}`)?.config;
      if (config?.access === 'public') operation['security'] = [];
      else if (method === 'post' && config?.idempotent !== false) {
        operation['parameters'] = [...((operation['parameters'] as Json[] | undefined) ?? []), IDEMPOTENCY_KEY];
      }
    }
  }
  return {
    ...whole,
    tags: [...tags].sort().map((name) => ({ name })),
    components: {
      ...whole.components,
      schemas: { ...(whole.components?.['schemas'] as Json | undefined), Error: ERROR_SCHEMA },
    },
  };
}

function openApiPath(url: string): string {
  return url.replace(/:([A-Za-z0-9_]+)/g, '{$1}');
}

/** The first word after the version: `models`, `training`, `devices`. */
function tagOf(path: string): string {
  return /^\/(?:api\/v\d+|v\d+)\/([^/]+)/.exec(path)?.[1] ?? 'system';
}

/** Such as `postApiKeysIdRotate`. */
function operationId(method: string, path: string): string {
  const words = path
    .replace(/^\/(api\/)?v\d+\//, '')
    .split(/[^A-Za-z0-9]+/)
    .filter((word) => word !== '');
  return [method, ...words.map((word) => word[0]?.toUpperCase() + word.slice(1))].join('');
}
